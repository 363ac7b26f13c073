"""What a run starts from: its own last checkpoint, a smaller model that is grown, or noise."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import torch.distributed as dist
from transformers import PreTrainedConfig, PreTrainedModel

from grow.common.errors import CheckpointError, ConfigError
from grow.common.printed import say
from grow.common.provenance import Lineage, lineage_of, read_lineage, write_record
from grow.common.records import read_record
from grow.common.temporary import discard
from grow.distributed.processes import barrier, from_first, is_first
from grow.families.build import load_model, model_from_noise
from grow.families.source_directory import find_source
from grow.growth.depth import repeated_layers
from grow.growth.record import GrowthRecord
from grow.growth.run import grow
from grow.growth.settings import GrowthSettings
from grow.training.checkpoints.checkpoint_reader import Checkpoint, newest_checkpoint
from grow.training.checkpoints.grown_moments import grow_moments
from grow.training.checkpoints.grown_window import grow_window
from grow.training.checkpoints.integrity import foreign_files
from grow.training.plan import Plan
from grow.training.run_directory import RunDirectory
from grow.training.settings import OWN_SOURCE, ObjectiveSettings

_VERIFIED_SEQUENCES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Grown:
    """What a growth hands to the run that starts from it.

    A run that continues has only the repeated inputs and layers: its checkpoint holds the moments and the window.
    """

    input_copies: Mapping[str, float] = field(default_factory=dict)
    """How many times the growth repeated the inputs of a weight, by parameter; 1 where a weight is not named."""
    new_layers: frozenset[int] = frozenset()
    """Layers that repeat a layer below them."""
    directory: Path | None = None
    """Directory with the grown moments and window; it exists for as long as the block of `choose_start`."""
    updates: int = 0
    """Steps of the source's optimizer whose moments were grown; 0 where none were."""
    window: dict[str, Any] | None = None
    """State of the source's averaging window, whose snapshots were grown; None where none were."""
    max_logit_diff: float | None = None
    """Largest difference between the logits of the source and the grown model."""
    warning: str | None = None
    """What the user has to know before training begins."""


@dataclass(kw_only=True, slots=True)
class Start:
    """A model ready to train, and how it came to be."""

    model: PreTrainedModel
    described: str
    checkpoint: Checkpoint | None = None
    """The run's own checkpoint that it continues from."""
    lineage: Lineage | None = None
    """What had been spent on the source; None from noise."""
    grown: Grown | None = None
    """What a growth handed over, now or when the run was first started; None where nothing was grown."""

    @property
    def input_copies(self) -> Mapping[str, float]:
        """How many times a growth repeated the inputs of a weight, by parameter; empty where it repeated none."""
        return {} if self.grown is None else self.grown.input_copies

    @property
    def new_layers(self) -> frozenset[int]:
        """Layers that a growth repeated; empty where it repeated none."""
        return frozenset() if self.grown is None else self.grown.new_layers


@contextmanager
def choose_start(
    config: PreTrainedConfig,
    growth: GrowthSettings | None,
    source: str | None,
    data: Callable[..., L.LightningDataModule],
    run: RunDirectory,
    plan: Plan,
) -> Iterator[Start]:
    """Continue the run where there is something to continue, else grow or initialise its weights.

    Use it as a context manager around the fit: RUN/grown_state, which holds grown Adam moments and an averaging window
    until the engine has taken them, is removed when the block ends or fails.

    Args:
        config: The architecture to train.
        growth: How it is grown; None starts from noise.
        source: Checkpoint directory, run directory or hub id that it grows from.
        data: Makes the data module, whose validation split verifies a growth.
        run: Looked through for checkpoints; gets growth.json.
        plan: Seed, averaging and processes of the run.

    Raises:
        GrowthError: source and target do not fit, or the grown model does not compute the source's function.
        CheckpointError: the source is missing or damaged.
    """
    with _temporary(run.path / "grown_state") as state:
        start = _from_checkpoint(run)
        if start is None and growth is not None and source is not None:
            start = _from_growth(config, growth, source, data, state, run, plan)
        yield start or Start(model=model_from_noise(config, plan.seed), described=f"noise, seed {plan.seed}")


@contextmanager
def _temporary(directory: Path) -> Iterator[Path]:
    """Yield a path that does not exist yet; remove what the block has put there, and what a killed run left there."""
    if is_first():
        discard(directory)
    try:
        yield directory
    finally:
        if is_first():
            discard(directory)


@dataclass(kw_only=True, slots=True)
class _GrownLayers:
    """What growth.json says of the grown model's layers: the source's layer that each is a copy of."""

    layers: list[int]


def _from_checkpoint(run: RunDirectory) -> Start | None:
    """Return the run's newest complete checkpoint as a start; None where it has none."""
    found = from_first(_own_checkpoint(run))
    if isinstance(found, CheckpointError):
        raise found  # on every rank
    checkpoint = found
    if checkpoint is None:
        return None
    copies = checkpoint.state.input_copies
    layers = read_record(run.growth, _GrownLayers).layers if run.growth.exists() else []
    return Start(
        model=load_model(checkpoint.path),
        described=f"checkpoint {checkpoint.path}",
        checkpoint=checkpoint,
        lineage=lineage_of(run.path),
        grown=Grown(input_copies=copies, new_layers=frozenset(repeated_layers(layers))) if copies or layers else None,
    )


def _own_checkpoint(run: RunDirectory) -> Checkpoint | CheckpointError | None:
    """Return the run's newest complete checkpoint, None where it has none, or why it cannot be continued.

    All ranks call this, as each reads a share of the files.
    """
    try:
        checkpoint, skipped = newest_checkpoint(run.checkpoints, together=True)
    except CheckpointError as error:
        return error
    if checkpoint is None and skipped:
        return CheckpointError(
            f"{run.checkpoints}: expected a complete checkpoint to continue from, found none. {' '.join(skipped)} Put "
            "the damaged files back from a copy. To start anew instead, add resume=fresh, which moves this run to "
            f"{run.path.name}.before-TIME and removes nothing."
        )
    foreign = [] if checkpoint is None else foreign_files(checkpoint.path)
    if checkpoint is not None and foreign:
        skipped.append(f"notice: {checkpoint.path} holds files that are not its own, left alone: {', '.join(foreign)}.")
    if is_first():
        for line in skipped:
            say(line)
    return checkpoint


def _from_growth(
    config: PreTrainedConfig,
    growth: GrowthSettings,
    source: str,
    data: Callable[..., L.LightningDataModule],
    state: Path,
    run: RunDirectory,
    plan: Plan,
) -> Start:
    """Grow on rank 0 while the others wait, then load the grown model on every rank."""
    with _temporary(run.path / "grown") as directory:
        result: tuple[Grown, str] | None = None
        if is_first():
            tokens = next(iter(data().val_dataloader()))[:_VERIFIED_SEQUENCES]
            with _every_core():
                record = grow(source, directory, growth, config, tokens)
            _refuse_own_lesson(plan.objective, source, record)
            grown = _grow_state(record, config, source, directory, state, plan)
            write_record(run.growth, record.as_json())
            result = grown, _describe(record, grown)
        result = from_first(result)
        assert result is not None  # rank 0 has it
        grown, described = result
        start = Start(model=load_model(directory), described=described, lineage=read_lineage(directory), grown=grown)
        barrier()  # every rank has read the directory
    return start


def _refuse_own_lesson(objective: ObjectiveSettings, source: str, record: GrowthRecord) -> None:
    """Refuse to learn nothing but what the student computes already.

    Raises:
        ConfigError: the student computes its teacher's function, and the loss has no other term.
    """
    is_own = objective.teacher in (OWN_SOURCE, source)
    if is_own and objective.alpha == 1 and record.verification.preserved:
        raise ConfigError(
            f"objective.alpha=1 with objective.teacher={objective.teacher}: the grown model computes what its teacher "
            "computes, so the loss and its gradient are rounding errors, and Adam would take full-sized steps along "
            "them. Set objective.alpha=0.5 objective.alpha_decay=0, as experiment=inherit/hold does, or choose another "
            "teacher."
        )


@contextmanager
def _every_core() -> Iterator[None]:
    """Compute with all of this process's cores while the other ranks wait; torchrun gives each rank one thread."""
    before = torch.get_num_threads()
    if dist.is_initialized():
        torch.set_num_threads(max(before, len(os.sched_getaffinity(0))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _grow_state(
    record: GrowthRecord, config: PreTrainedConfig, source: str, directory: Path, state: Path, plan: Plan
) -> Grown:
    """Grow the source's Adam moments and averaging window too if they are wanted, and summarise the growth.

    Args:
        record: Record of the growth.
        config: The architecture to train.
        source: Source of the growth.
        directory: Directory of the grown model.
        state: Directory to write moments and window into.
        plan: Says whether the average's window is grown.
    """
    growth, updates, window = record.growth, 0, None
    if growth.optimizer_state != "reset":
        updates = grow_moments([find_source(name) for name in growth.sources or [source]], directory, record, state)
    if plan.averaging is not None and plan.averaging.settings.on_growth == "map":
        window = grow_window(find_source(source), directory, record, state)
    return Grown(
        input_copies={name: copies for name, copies in record.input_copies.items() if copies > 1},
        new_layers=frozenset(repeated_layers(record.plan.layers)),
        directory=state,
        updates=updates,
        window=window,
        max_logit_diff=record.verification.max_abs_logit_diff,
        warning=record.notice or _symmetry_warning(record, config),
    )


def _describe(record: GrowthRecord, grown: Grown) -> str:
    """Say in a few words what the run starts from."""
    moments = f", with its optimizer's state after {grown.updates:,} steps ({record.growth.optimizer_state})"
    window = "" if grown.window is None else f", with its window of {grown.window['count']} snapshots"
    return record.described + (moments if grown.updates else "") + window


def _symmetry_warning(record: GrowthRecord, config: PreTrainedConfig) -> str | None:
    """Return a warning where the copies of a growth would stay equal forever; None where something breaks the tie."""
    dropout = ("dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "layerdrop")
    if record.breaks_symmetry or any(getattr(config, name, 0) for name in dropout):
        return None
    return (
        f"warning: growth={record.growth.name} makes equal copies, and the model has no dropout: they stay equal and "
        "the new capacity is never used. Add growth.snr_db=10 (noise that cancels) or growth.share=uneven where width "
        "grows, growth.expert_noise=0.01 where experts do, or growth.optimizer_state=asymmetric."
    )
