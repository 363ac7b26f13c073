"""The tensors of a merge, made block by block: read, thin, vote, combine, add to the base, round once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grow.averaging.arithmetic import chunks, finite, rounded
from grow.averaging.sources import Source
from grow.common.errors import CheckpointError
from grow.families.tensor_file import TensorInfo
from grow.merging.combining import agreeing_mean, coefficients, keep_elected, variance_of, weighted_sum
from grow.merging.settings import BY_THRESHOLD, MergingSettings
from grow.merging.survey import BLOCK, Survey, read_finite
from grow.merging.thinning import (
    Threshold,
    TopOf,
    drop_probabilities,
    find_threshold,
    magnitude_bits,
    ranges,
    uniform_draws,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Merge:
    """Everything that decides the bits of a merge."""

    settings: MergingSettings
    models: Sequence[Source]
    base: Source | None
    tensors: Mapping[str, TensorInfo]
    """The tensors to make, by name, in the dtype that they get."""
    survey: Survey
    thresholds: list[list[Threshold]] = field(default_factory=list)
    """Boundaries of each model over all of its tensors, where magnitudes are compared over the model."""
    kept: dict[str, list[int]] = field(default_factory=dict)
    """Name of each tensor that was made -> how many elements of each model were kept."""

    @property
    def weights(self) -> list[float]:
        """Weight of each model."""
        return self.settings.weights or [1.0] * len(self.models)

    def deltas(self, name: str, block: slice) -> tuple[Tensor | None, list[Tensor]]:
        """Read a block: the base's, if any, and what is merged of each model, in float64."""
        parts = read_finite(name, block, self.models, self.base)
        if self.base is None:
            return None, parts
        return parts[0], [part.sub_(parts[0]) for part in parts[1:]]

    def find_thresholds(self, pool: Executor) -> None:
        """Find the boundaries over whole models, where they are needed."""
        if self.settings.thin in BY_THRESHOLD and self.settings.scope == "model":
            names = [name for name, info in self.tensors.items() if info.dtype.is_floating_point]
            found = pool.map(lambda place: self.boundaries(place, names), range(len(self.models)))
            self.thresholds.extend(found)

    def boundaries(self, place: int, names: Sequence[str]) -> list[Threshold]:
        """Return the boundaries between which a model's magnitudes are kept, over some of its tensors together."""
        elements = sum(prod(self.tensors[name].shape) for name in names)

        def magnitudes(name: str) -> Iterator[NDArray[np.uint32]]:
            for block in chunks(prod(self.tensors[name].shape), BLOCK):
                parts = read_finite(name, block, [self.models[place]], self.base)
                yield magnitude_bits(parts[-1] if self.base is None else parts[1].sub_(parts[0]))

        first = round((self.settings.outliers or 0) * elements)
        last = first + elements - round((self.settings.drop or 0) * elements)
        counts = [last] if self.settings.thin == "largest" else [first, last]
        return [find_threshold(names, magnitudes, count) for count in counts]

    def blocks(self, name: str) -> Iterator[Tensor]:
        """Yield one merged tensor as flat blocks in its dtype; integer tensors are the base's, or the first model's."""
        info = self.tensors[name]
        if not info.dtype.is_floating_point:
            source = self.base or self.models[0]
            yield from (source.read(name, block) for block in chunks(prod(info.shape), BLOCK))
            return
        thin, kept = self._thinned(info), np.zeros(len(self.models), dtype=np.int64)
        combine = self._combined(info, thin)
        for block in ranges(prod(info.shape), _row_length(info, self.settings), BLOCK):
            origin, deltas = self.deltas(name, block)
            kept += thin(deltas, block)
            merged = combine(deltas)
            if origin is not None:
                update = merged.mul_(self.settings.scale)
                merged = torch.where(update == 0, origin, origin + update)  # -0.0 of the base stays what it is
            out = rounded(merged, info.dtype)
            if not finite([out]):
                raise _overflow(info, self.settings)
            self.kept[name] = kept.tolist()  # here: the writer asks for no more blocks than it needs
            yield out

    def _combined(self, info: TensorInfo, thin: "Thin") -> Callable[[list[Tensor]], Tensor]:
        """Return what combines a block of thinned deltas of a tensor into one; it may change them."""
        settings, elect = self.settings, self.settings.elect
        shares = (
            self._shares_of_variance(info)
            if settings.combine == "variance"
            else self.weights
            if settings.combine == "agreeing"
            else coefficients(settings.combine, self.weights, self.survey.tensors[info.name].gram)
        )
        agree = settings.combine == "agreeing" or (settings.combine == "variance" and elect != "none")

        def combine(deltas: list[Tensor]) -> Tensor:
            if elect != "none":
                keep_elected(deltas, elect)
            return agreeing_mean(deltas, shares) if agree else weighted_sum(deltas, shares)

        return combine

    def _thinned(self, info: TensorInfo) -> "Thin":
        """Return what thins the blocks of a tensor of all models, in order, and counts what it kept."""
        if self.settings.combine == "variance":
            return self._most_varied(info)
        places = range(len(self.models))
        each = [_thin_one(self.settings, place, info, self._tops(place, info.name)) for place in places]
        return lambda deltas, block: [thin(delta, block) for thin, delta in zip(each, deltas, strict=True)]

    def _tops(self, place: int, name: str) -> list[TopOf]:
        if self.settings.thin not in BY_THRESHOLD:
            return []
        found = self.thresholds[place] if self.settings.scope == "model" else self.boundaries(place, [name])
        return [TopOf(threshold, name) for threshold in found]

    def _most_varied(self, info: TensorInfo) -> "Thin":
        """Return what keeps the elements in which the models differ most, the same ones of all models (SCE)."""
        elements = prod(info.shape)

        def variances(name: str) -> Iterator[NDArray[np.uint32]]:
            for block in chunks(elements, BLOCK):
                yield magnitude_bits(variance_of(self.deltas(name, block)[1]))

        count = elements - round((self.settings.drop or 0) * elements)
        top = TopOf(find_threshold([info.name], variances, count), info.name)

        def thin(deltas: list[Tensor], block: slice) -> list[int]:
            keep = torch.from_numpy(top(magnitude_bits(variance_of(deltas))))
            return [_keep(delta, keep) for delta in deltas]

        return thin

    def _shares_of_variance(self, info: TensorInfo) -> list[float]:
        """Return the share of each model in one tensor: its part of the squared norm of what is selected (SCE)."""
        thin, squares = self._most_varied(info), np.zeros(len(self.models))
        for block in chunks(prod(info.shape), BLOCK):
            deltas = self.deltas(info.name, block)[1]
            thin(deltas, block)
            squares += [float(delta.square().sum()) for delta in deltas]
        total = float(squares.sum())
        return (squares / total).tolist() if total else [1 / len(squares)] * len(squares)


Thin = Callable[[list[Tensor], slice], list[int]]
"""Sets to zero, in place, what is dropped of a block of each model; returns how many elements of each were kept."""


def _row_length(info: TensorInfo, settings: MergingSettings) -> int:
    return info.shape[-1] if settings.thin == "ranked" and info.shape else 1


def _thin_one(
    settings: MergingSettings, place: int, info: TensorInfo, tops: list[TopOf]
) -> Callable[[Tensor, slice], int]:
    """Return what thins the blocks of a tensor of one model, in place, and counts what it kept."""
    drop, unbiased = settings.drop or 0.0, settings.rescale == "unbiased"

    def random(delta: Tensor, block: slice) -> int:
        kept = _keep(delta, uniform_draws(settings.seed, place, info.name, block) >= drop)
        if unbiased:
            delta.div_(1 - drop)
        return kept

    def ranked(delta: Tensor, block: slice) -> int:
        chances = drop_probabilities(delta, _row_length(info, settings), drop, settings.spread or 0.0)
        kept = _keep(delta, uniform_draws(settings.seed, place, info.name, block) >= chances)
        if unbiased:
            delta.div_(1 - chances)
        return kept

    def by_threshold(delta: Tensor, block: slice) -> int:
        inside = [top(magnitude_bits(delta)) for top in tops]
        keep = inside[0] if settings.thin == "largest" else inside[1] & ~inside[0]
        return _keep(delta, torch.from_numpy(keep))

    if settings.thin == "none":
        return lambda delta, block: len(delta)
    return {"random": random, "ranked": ranked}.get(settings.thin, by_threshold)


def _keep(delta: Tensor, keep: Tensor) -> int:
    """Set to zero what is not kept, in place, and return how much is."""
    delta.masked_fill_(~keep, 0)
    return int(keep.sum())


def _overflow(info: TensorInfo, settings: MergingSettings) -> CheckpointError:
    return CheckpointError(
        f"tensor {info.name}: the merge has values too large for {str(info.dtype).removeprefix('torch.')}. Lower "
        f"merging.scale={settings.scale:g} or merging.drop, or the weights."
    )
