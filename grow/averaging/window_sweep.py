"""Sweeps windows over one run's checkpoints: the validation loss of each average, without further training."""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from grow.averaging.offline import average_checkpoints
from grow.averaging.settings import AveragingSettings, SweepAveragesConfig
from grow.averaging.sources import Source, find_sources
from grow.averaging.window_figure import draw_curves
from grow.common.errors import CheckpointError, ConfigError
from grow.common.provenance import RUN_FILE, write_json
from grow.common.records import read_record
from grow.data.order import VALIDATION_SEED, order
from grow.data.shards import TokenShards
from grow.families.build import load_model


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowCurve:
    """Losses of one window size and spacing along a run."""

    k: int
    every_steps: int
    steps: list[int]
    """Steps at which the run has all checkpoints of the window."""
    losses: list[float]
    """Validation loss of the average at each step, in nats per token."""

    @property
    def label(self) -> str:
        return "live" if self.k == 1 else f"k={self.k}, every {self.every_steps} steps"


def sweep(config: SweepAveragesConfig) -> list[WindowCurve]:
    """Measure every k and spacing; the first curve is the live model's.

    Raises:
        CheckpointError: the run or its checkpoints are missing.
        ConfigError: no window fits into them.
    """
    run, by_step = Path(config.run), _checkpoints(config.run)
    batches = _validation_batches(run, config)
    losses: dict[tuple[int, ...], float] = {}
    curves = []
    for k, every_steps in _windows(config, list(by_step)):
        ends = [tuple(step - i * every_steps for i in reversed(range(k))) for step in by_step]
        windows = [window for window in ends if by_step.keys() >= set(window)]
        for window in windows:
            if window not in losses:
                losses[window] = _loss_of_average([by_step[step] for step in window], batches)
        if windows:
            steps = [window[-1] for window in windows]
            curves.append(WindowCurve(k=k, every_steps=every_steps, steps=steps, losses=[losses[w] for w in windows]))
    if len(curves) < 2:
        raise ConfigError(
            f"k={config.k}, every_steps={config.every_steps}: no window of these fits into the {len(by_step)} "
            f"checkpoints of {run} (steps {', '.join(map(str, by_step))}). A run keeps more with checkpoint.keep_last."
        )
    return curves


def as_table(curves: Sequence[WindowCurve]) -> tuple[list[str], list[list[str]]]:
    """Return a header and one row for each window, with its gain over the live model at the same steps."""
    live = dict(zip(curves[0].steps, curves[0].losses, strict=True))
    header = ["window", "span (steps)", "first at step", "best loss", "at step", "last loss", "mean gain", "last gain"]
    rows = []
    for curve in curves:
        gains = [live[step] - loss for step, loss in zip(curve.steps, curve.losses, strict=True)]
        best = min(range(len(curve.losses)), key=curve.losses.__getitem__)
        rows.append(
            [
                curve.label,
                str((curve.k - 1) * curve.every_steps),
                str(curve.steps[0]),
                f"{curve.losses[best]:.4f}",
                str(curve.steps[best]),
                f"{curve.losses[-1]:.4f}",
                f"{sum(gains) / len(gains):+.4f}",
                f"{gains[-1]:+.4f}",
            ]
        )
    return header, rows


def as_json(config: SweepAveragesConfig, curves: Sequence[WindowCurve]) -> dict[str, Any]:
    """Return the content of sweep.json."""
    return {"sweep": asdict(config), "curves": [asdict(curve) for curve in curves]}


def write_sweep(config: SweepAveragesConfig, curves: Sequence[WindowCurve]) -> list[Path]:
    """Write sweep.json and sweep.png, loss against step for each window, and return their paths."""
    output = Path(config.output)
    numbers, figure = output / "sweep.json", output / "sweep.png"
    output.mkdir(parents=True, exist_ok=True)
    write_json(numbers, as_json(config, curves))
    lines = {curve.label: (curve.steps, curve.losses) for curve in curves}
    draw_curves(lines, figure, y_label="validation loss (nats a token)", title=f"Averages of {config.run}")
    return [numbers, figure]


def _checkpoints(run: str) -> dict[int, Source]:
    if not (Path(run) / RUN_FILE).is_file():
        raise CheckpointError(f"{run}: expected a run directory with a {RUN_FILE}, found none.")
    return {source.step: source for source in find_sources([run]) if source.step is not None}


def _windows(config: SweepAveragesConfig, steps: list[int]) -> Iterator[tuple[int, int]]:
    """Yield pairs (k, every_steps), the live model first and once."""
    own = min((later - earlier for earlier, later in itertools.pairwise(steps)), default=1)
    spacings = config.every_steps or [own, 2 * own, 4 * own]
    yield 1, spacings[0]
    yield from ((k, spacing) for k in sorted({*config.k} - {1}) for spacing in sorted({*spacings}))


@dataclass(kw_only=True, slots=True)
class _DataSettings:
    """Of the configuration of a run's data."""

    sequence_length: int


@dataclass(kw_only=True, slots=True)
class _TrainerSettings:
    """Of the configuration of a run's trainer."""

    val_tokens: int


@dataclass(kw_only=True, slots=True)
class _Settings:
    """Of a run's configuration."""

    data: _DataSettings
    trainer: _TrainerSettings


@dataclass(kw_only=True, slots=True)
class _Data:
    """Token shards of a run."""

    path: str


@dataclass(kw_only=True, slots=True)
class _RunRecord:
    """What run.json says of the sequences that a run was validated on."""

    config: _Settings
    data: _Data


def _validation_batches(run: Path, config: SweepAveragesConfig) -> list[Tensor]:
    """Return the sequences that the run was validated on, in batches: int64, (micro_batch, sequence_length + 1)."""
    facts = read_record(run / RUN_FILE, _RunRecord)
    length = facts.config.data.sequence_length
    shards = TokenShards.open(facts.data.path)
    for shard in shards.of_split("validation"):
        shards.check(shard)
    windows = shards.windows("validation", length)
    count = min((config.val_tokens or facts.config.trainer.val_tokens) // length, len(windows))
    if count == 0:
        raise ConfigError(f"val_tokens={config.val_tokens}: expected at least one sequence of {length} tokens.")
    chosen = order(np.arange(count), len(windows), VALIDATION_SEED)
    return list(torch.from_numpy(windows.take(chosen)).split(config.micro_batch))


def _loss_of_average(members: Sequence[Source], batches: Sequence[Tensor]) -> float:
    """Average checkpoints as scripts/average_checkpoints.py does, load the result and return its validation loss."""
    if len(members) == 1:
        return validation_loss(load_model(_directory(members[0])), batches)
    settings = AveragingSettings(name="lawa", kind="lawa", k=len(members))
    with tempfile.TemporaryDirectory() as scratch:
        average_checkpoints([str(_directory(member)) for member in members], settings, Path(scratch) / "average")
        return validation_loss(load_model(Path(scratch) / "average"), batches)


def _directory(source: Source) -> Path:
    assert source.directory is not None
    return source.directory


def validation_loss(model: PreTrainedModel, batches: Sequence[Tensor]) -> float:
    """Return the mean cross-entropy in nats of all predicted tokens; batches are int64, (B, T + 1)."""
    total, tokens = 0.0, 0
    model.eval()
    with torch.no_grad():
        for batch in batches:
            logits = model(batch[:, :-1], use_cache=False).logits.flatten(0, 1).float()  # (B T, V)
            total += float(functional.cross_entropy(logits, batch[:, 1:].flatten(), reduction="sum"))
            tokens += len(logits)
    return total / tokens
