"""Sweeps scale and drop of a merge: the held-out loss of every data source at each point.

One half of the held-out sequences chooses the best point, the other half scores it beside base and models. A merge is
on the disk only while it is measured.
"""

import csv
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from grow.averaging.sources import open_model
from grow.averaging.window_sweep import validation_loss
from grow.common.errors import ConfigError
from grow.common.figure_style import STYLE, figure_label
from grow.data.order import VALIDATION_SEED, order
from grow.data.shards import TokenShards
from grow.families.build import load_model
from grow.merging.merge_models import merge_models
from grow.merging.settings import MergingSettings, SweepMergesConfig

TIE = 5e-5
"""Losses that differ by less are equal in the four digits that are printed."""

Batches = dict[str, list[Tensor]]
"""Data source -> its sequences in batches: int64, (micro_batch, sequence_length + 1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MergePoint:
    """One merge, or one of the models, and its losses in nats a token."""

    label: str
    settings: MergingSettings | None
    losses: dict[str, float]
    """Data source -> loss on the half that chooses."""

    def by(self, source: str | None) -> float:
        """Return the loss that chooses: that of a data source, or the mean over all."""
        return self.losses[source] if source else sum(self.losses.values()) / len(self.losses)


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeSweep:
    """All points, the best one, and how the best and the models do on the other half."""

    models: list[MergePoint]
    points: list[MergePoint]
    best: MergePoint
    ties: list[str]
    """Labels of other points whose choosing loss equals the best's in four digits."""
    scored: list[MergePoint]
    """The models and the best on the half that did not choose."""
    tokens: int
    """Predicted tokens of each source in each half."""


def sweep_merges(config: SweepMergesConfig) -> MergeSweep:
    """Measure every point, and write the best merge where `config.output` names a directory.

    Raises:
        ConfigError: there is no such data source, or not enough of its held-out tokens; or as `merge_models`.
        CheckpointError: as `merge_models`.
    """
    config.merging.check_models(len(config.models))
    grid = list(_grid(config))
    choosing, scoring = _halves(config)
    if config.best_by is not None and config.best_by not in choosing:
        raise ConfigError(f"best_by={config.best_by}: expected one of the data's sources, {', '.join(choosing)}.")
    places = dict.fromkeys([*([config.base] if config.base else []), *config.models])
    models = [_measure(place, _directory(place), None, choosing) for place in places]
    points = [_merged(config, settings, choosing) for settings in grid]
    best = min(points, key=lambda point: point.by(config.best_by))
    least = best.by(config.best_by)
    scored = [_measure(place, _directory(place), None, scoring) for place in places]
    scored.append(_merged(config, best.settings or config.merging, scoring, config.output))
    return MergeSweep(
        models=models,
        points=points,
        best=best,
        ties=[each.label for each in points if each is not best and each.by(config.best_by) - least < TIE],
        scored=scored,
        tokens=sum(batch.shape[0] * (batch.shape[1] - 1) for batch in next(iter(choosing.values()))),
    )


def _grid(config: SweepMergesConfig) -> Iterator[MergingSettings]:
    drops: list[float | None] = [config.merging.drop] if config.drop is None else [*config.drop]
    for drop in drops:
        for scale in config.scale:
            yield replace(config.merging, drop=drop, scale=scale)


def _directory(model: str) -> Path:
    directory = open_model(model).directory
    if directory is None:
        raise ConfigError(f"{model}: expected a model directory, whose loss can be measured; found a file of weights.")
    return directory


def _halves(config: SweepMergesConfig) -> tuple[Batches, Batches]:
    """Return two disjoint sets of held-out sequences of every source, of the same size."""
    shards = TokenShards.open(config.corpus)
    for shard in shards.of_split("validation"):
        shards.check(shard)
    halves: tuple[Batches, Batches] = {}, {}
    for source in shards.sources:
        windows = shards.windows("validation", config.sequence_length, source)
        count = min(config.tokens // config.sequence_length, len(windows)) // 2
        if count == 0:
            raise ConfigError(
                f"tokens={config.tokens}: expected two held-out sequences of {config.sequence_length} tokens of source "
                f"{source}, one to choose and one to score; it has {len(windows)}."
            )
        chosen = order(np.arange(2 * count), len(windows), VALIDATION_SEED)
        for half, part in zip(halves, (chosen[:count], chosen[count:]), strict=True):
            half[source] = list(torch.from_numpy(windows.take(part)).split(config.micro_batch))
    return halves


def _merged(
    config: SweepMergesConfig, settings: MergingSettings, batches: Batches, output: str | None = None
) -> MergePoint:
    label = f"scale {settings.scale:g}" + ("" if settings.drop is None else f", drop {settings.drop:g}")
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(output) if output else Path(scratch) / "merge"
        merge_models(config.base, config.models, settings, directory)
        return _measure(label, directory, settings, batches)


def _measure(label: str, directory: Path, settings: MergingSettings | None, batches: Batches) -> MergePoint:
    model = load_model(directory)
    losses = {source: validation_loss(model, own) for source, own in batches.items()}
    return MergePoint(label=label, settings=settings, losses=losses)


def write_table(sweep: MergeSweep, directory: Path, best_by: str | None) -> list[Path]:
    """Write sweep.csv and sweep.png, the choosing loss against the scale, and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    table, figure = directory / "sweep.csv", directory / "sweep.png"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["half", "point", "scale", "drop", *sweep.best.losses])
        for half, points in (("choosing", [*sweep.models, *sweep.points]), ("scoring", sweep.scored)):
            for point in points:
                fields = ("", "") if point.settings is None else (point.settings.scale, point.settings.drop)
                rows.writerow([half, point.label, *fields, *point.losses.values()])
    _draw(sweep.points, figure, best_by)
    return [table, figure]


def _draw(points: Sequence[MergePoint], path: Path, best_by: str | None) -> None:
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(10, 6), layout="constrained")
        panel = drawn.subplots()
        settings = [(point, point.settings) for point in points if point.settings is not None]
        for drop in dict.fromkeys(each.drop for _, each in settings):
            own = sorted((each.scale, point.by(best_by)) for point, each in settings if each.drop == drop)
            label = figure_label("all deltas" if drop is None else f"drop {drop:g}")
            panel.plot([scale for scale, _ in own], [loss for _, loss in own], marker="o", label=label)
        panel.set_xlabel("merging.scale")
        panel.set_ylabel(figure_label(f"held-out loss of {best_by or 'all sources'} (nats a token)"))
        panel.legend(frameon=False, fontsize=10)
        drawn.savefig(path, dpi=120)
