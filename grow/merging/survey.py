"""The pass before a merge: sizes of models and deltas, what they have in common, and that every value is finite."""

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import chain
from math import prod

import numpy as np
from torch import Tensor

from grow.averaging.arithmetic import chunks, finite
from grow.averaging.offline import not_finite
from grow.averaging.sources import Source
from grow.families.tensor_file import TensorInfo
from grow.merging.combining import Gram

BLOCK = 2**18  # elements of each model in memory at a time: 2 MB of float64


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSurvey:
    """Inner products of one tensor, in float64."""

    reference: float
    """Squared norm of the reference's tensor: the base's, or the first model's where there is no base."""
    models: list[float]
    """Squared norms of the models' tensors."""
    common: list[float]
    """Inner products of reference and models."""
    gram: Gram
    """Inner products of what is merged; zero off the diagonal where only the sizes are needed: (models, models)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What is known of all tensors before any is merged."""

    tensors: dict[str, TensorSurvey]
    cosines: list[float]
    """Cosine of each model's matrices with the reference's; about 0 for models of no common ancestor."""
    relative_deltas: list[float]
    """Norm of what is merged of each model over the norm of the reference: |theta_t - theta_0| / |theta_0|."""


def survey(
    pool: Executor, tensors: Sequence[TensorInfo], models: Sequence[Source], base: Source | None, *, pairs: bool
) -> Survey:
    """Read every floating-point tensor once.

    Args:
        pool: Threads that each survey a tensor at a time.
        tensors: The tensors to read.
        models: The models to merge.
        base: The model that they are compared with; None takes the first model, and what is merged are the weights.
        pairs: Whether inner products of different models are needed.

    Raises:
        CheckpointError: a value is not finite.
    """
    floating = [info for info in tensors if info.dtype.is_floating_point]
    made = pool.map(lambda info: _survey_tensor(info, models, base, pairs), floating)
    found = dict(zip((info.name for info in floating), made, strict=True))
    matrices = [found[info.name] for info in floating if len(info.shape) > 1] or list(found.values())
    places = range(len(models))
    reference = math.sqrt(math.fsum(each.reference for each in found.values())) or 1.0
    return Survey(
        tensors=found,
        cosines=[_cosine(matrices, place) for place in places],
        relative_deltas=[
            math.sqrt(math.fsum(each.gram[place, place] for each in found.values())) / reference for place in places
        ],
    )


def _cosine(matrices: Sequence[TensorSurvey], place: int) -> float:
    sizes = math.fsum(each.reference for each in matrices) * math.fsum(each.models[place] for each in matrices)
    return math.fsum(each.common[place] for each in matrices) / math.sqrt(sizes) if sizes else 1.0


def _survey_tensor(info: TensorInfo, models: Sequence[Source], base: Source | None, pairs: bool) -> TensorSurvey:
    reference, sizes, common = 0.0, np.zeros(len(models)), np.zeros(len(models))
    gram = np.zeros((len(models), len(models)))
    for block in chunks(prod(info.shape), BLOCK):
        parts = read_finite(info.name, block, models, base)
        origin = parts.pop(0) if base is not None else parts[0]
        reference += _dot(origin, origin)
        sizes += [_dot(part, part) for part in parts]
        common += [_dot(origin, part) for part in parts]
        merged = parts if base is None else [part.sub_(origin) for part in parts]
        for row, column in _cells(len(models), pairs):
            gram[row, column] += _dot(merged[row], merged[column])
    gram = np.triu(gram) + np.triu(gram, 1).T
    return TensorSurvey(reference=reference, models=sizes.tolist(), common=common.tolist(), gram=gram)


def read_finite(name: str, block: slice, models: Sequence[Source], base: Source | None) -> list[Tensor]:
    """Read a block of the base, if any, and of each model in float64.

    Raises:
        CheckpointError: a value is not finite.
    """
    sources = list(chain([] if base is None else [base], models))
    parts = [source.read(name, block).double() for source in sources]
    if not finite(parts):
        raise not_finite(name, parts, sources)
    return parts


def _cells(models: int, pairs: bool) -> list[tuple[int, int]]:
    return [(row, column) for row in range(models) for column in range(row, models if pairs else row + 1)]


def _dot(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum())
