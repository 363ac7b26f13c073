"""What a run starts from: its own last checkpoint, a smaller model that is grown, or noise."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from transformers import PreTrainedConfig, PreTrainedModel

from grow.common.provenance import Lineage, read_json, read_lineage, write_json
from grow.distributed.processes import barrier, from_first, is_first
from grow.families.build import load_model, model_from_noise
from grow.families.source_directory import find_source
from grow.growth.depth import repeated_layers
from grow.growth.run import grow
from grow.growth.settings import GrowthSettings
from grow.training.checkpoints.checkpoint_reader import Checkpoint, newest_checkpoint
from grow.training.checkpoints.grown_moments import grow_moments
from grow.training.checkpoints.grown_window import grow_window
from grow.training.plan import Plan
from grow.training.run_directory import RunDirectory

_VERIFIED_SEQUENCES = 4


@dataclass(kw_only=True, slots=True)
class Start:
    """A model ready to train, and how it came to be."""

    model: PreTrainedModel
    described: str
    checkpoint: Checkpoint | None = None
    lineage: Lineage | None = None
    """What had been spent on the source; None from noise."""
    input_copies: Mapping[str, float] = field(default_factory=dict)
    """Weights whose inputs the growth repeated, and how often."""
    grown: Path | None = None
    """What the growth wrote, for as long as it is needed: see `discard_grown`."""
    new_layers: frozenset[int] = frozenset()
    """Layers that the growth repeated."""
    updates: int = 0
    """Steps of the source's optimizer whose state was grown; its moments are in `grown`."""
    window: dict[str, Any] | None = None
    """State of the source's averaging window; its grown snapshots are in `grown`."""
    max_logit_diff: float | None = None
    warning: str | None = None


def choose_start(
    config: PreTrainedConfig,
    growth: GrowthSettings | None,
    source: str | None,
    data: Callable[..., L.LightningDataModule],
    run: RunDirectory,
    plan: Plan,
) -> Start:
    """Continue the run where there is something to continue, else grow or draw its first weights.

    Args:
        config: the architecture to train.
        growth: how it is grown; None starts from noise.
        source: what it grows from: checkpoint directory, run directory or hub id.
        data: makes the data module; its validation split verifies a growth.
        run: looked through for checkpoints; gets growth.json.
        plan: seed and processes.

    Raises:
        GrowthError: source and target do not fit, or the grown model does not compute the source's function.
        CheckpointError: the source is missing or damaged.
    """
    start = _from_checkpoint(run)
    if start is None and growth is not None and source is not None:
        start = _grown(config, growth, source, data, run, plan)
    return start or Start(model=model_from_noise(config, plan.seed), described=f"noise, seed {plan.seed}")


def _from_checkpoint(run: RunDirectory) -> Start | None:
    checkpoint, skipped = from_first(newest_checkpoint(run.checkpoints) if is_first() else (None, []))
    if is_first():
        print("".join(f"{line}\n" for line in skipped), end="", flush=True)
    if checkpoint is None:
        return None
    lineage = run.read()["lineage"]
    return Start(
        model=load_model(checkpoint.path),
        described=f"checkpoint {checkpoint.path}",
        checkpoint=checkpoint,
        lineage=None if lineage is None else Lineage(**lineage),
        input_copies=checkpoint.state.input_copies,
        new_layers=frozenset(repeated_layers(read_json(run.growth)["layers"] if run.growth.exists() else [])),
    )


def _grown(
    config: PreTrainedConfig,
    growth: GrowthSettings,
    source: str,
    data: Callable[..., L.LightningDataModule],
    run: RunDirectory,
    plan: Plan,
) -> Start:
    """Rank 0 grows while the others wait; what only the engine can take is read from `grown` when it stands."""
    directory = run.path / "grown"
    facts = from_first(_grow(config, growth, source, data, directory, run, plan) if is_first() else {})
    return Start(model=load_model(directory), grown=directory, **facts)


def _grow(
    config: PreTrainedConfig,
    growth: GrowthSettings,
    source: str,
    data: Callable[..., L.LightningDataModule],
    directory: Path,
    run: RunDirectory,
    plan: Plan,
) -> dict[str, Any]:
    tokens = next(iter(data().val_dataloader()))[:_VERIFIED_SEQUENCES]
    run.path.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
    record = grow(source, directory, growth, config, tokens)
    updates = 0
    if growth.optimizer_state != "reset":
        updates = grow_moments([find_source(name) for name in growth.sources or [source]], directory, record)
    window = None
    if plan.averaging is not None and plan.averaging.settings.on_growth == "map":
        window = grow_window(find_source(source), directory, record)
    write_json(run.growth, record.as_json())
    kept = f", its optimizer's state after {updates:,} steps too ({growth.optimizer_state})" if updates else ""
    kept += f", its window of {window['count']} snapshots too" if window else ""
    return {
        "described": record.described + kept,
        "updates": updates,
        "window": window,
        "lineage": read_lineage(directory),
        "input_copies": {name: copies for name, copies in record.input_copies.items() if copies > 1},
        "new_layers": frozenset(repeated_layers(record.plan.layers)),
        "max_logit_diff": record.verification.max_abs_logit_diff,
        "warning": record.notice or (None if record.breaks_symmetry or _drops_out(config) else _warning(growth)),
    }


def discard_grown(start: Start) -> None:
    """Remove what the growth wrote, once every rank has read it; every rank calls this."""
    barrier()
    if is_first() and start.grown is not None:
        shutil.rmtree(start.grown)


def _drops_out(config: PreTrainedConfig) -> bool:
    trained = {"dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "layerdrop"}
    return any(getattr(config, name, 0) for name in trained)


def _warning(growth: GrowthSettings) -> str:
    return (
        f"warning: growth={growth.name} makes copies that nothing tells apart, and the model has no dropout: they stay "
        "equal and the new capacity is never used. Add growth.snr_db=10 (noise that cancels) or growth.share=uneven "
        "where width grows, growth.expert_noise=0.01 where experts do, or growth.optimizer_state=asymmetric."
    )
