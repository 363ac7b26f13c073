"""Validation curves, which are held-out loss against cost, and means and intervals over several seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

CostAxis = Literal["tokens", "flops", "seconds"]
AXES: tuple[CostAxis, ...] = ("tokens", "flops", "seconds")
SEEDS_FOR_INTERVAL = 3
_COLUMNS = (*AXES, "loss", "averaged")
_RESAMPLES = 1000

Numbers = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(kw_only=True, slots=True, eq=False)
class Curve:
    """Validation points of one run, oldest first; costs are those of the run alone, without its source's."""

    tokens: Numbers
    flops: Numbers
    seconds: Numbers
    loss: Numbers
    """Mean cross-entropy on the held-out split, in nats per token."""
    averaged: Numbers = field(default_factory=lambda: np.array(np.nan))
    """The loss of the averaged weights; NaN where there was no average."""

    def __post_init__(self) -> None:
        for name in _COLUMNS:
            setattr(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        self.averaged = np.broadcast_to(self.averaged, self.loss.shape)

    def along(self, axis: CostAxis) -> Numbers:
        """Return the cost at each point, in tokens, FLOPs or seconds."""
        return {"tokens": self.tokens, "flops": self.flops, "seconds": self.seconds}[axis]

    def loss_at(self, cost: float, axis: CostAxis) -> float:
        """Return the loss in nats at a cost, linearly interpolated between the points around it."""
        return float(np.interp(cost, self.along(axis), self.loss))

    @property
    def final_loss(self) -> float:
        """Loss at the last point."""
        return float(self.loss[-1])

    @property
    def final_averaged(self) -> float | None:
        """Loss of the averaged weights at the last point; None where there was no average."""
        last = float(self.averaged[-1])
        return None if np.isnan(last) else last


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the pointwise mean of several seeds, at the token counts at which all of them were validated."""
    return _mean(_align(curves))


def interval(
    statistic: Callable[[Curve, Curve], float], first: Sequence[Curve], second: Sequence[Curve]
) -> Interval | None:
    """Return the 95 % bootstrap interval (percentiles over seeds) of a statistic of two mean curves.

    The two groups are resampled independently. The ends of the interval are values that occurred and are never
    interpolated, so the statistic may be infinite.

    Args:
        statistic: Function of the mean curves of the first and the second group.
        first: Curves of the first group, one for each seed.
        second: Curves of the second group, one for each seed.

    Returns:
        Lower and upper end; None where `first` has fewer than three seeds, which are too few.
    """
    if len(first) < SEEDS_FOR_INTERVAL:
        return None
    first, second = _align(first), _align(second)
    random = np.random.default_rng(0)
    values = [statistic(_mean(_resample(first, random)), _mean(_resample(second, random))) for _ in range(_RESAMPLES)]
    low, high = np.quantile(values, (0.025, 0.975), method="inverted_cdf")
    return float(low), float(high)


def _align(curves: Sequence[Curve]) -> list[Curve]:
    common: Any = reduce(np.intersect1d, [curve.tokens for curve in curves])
    return [_select(curve, np.isin(curve.tokens, common)) for curve in curves]


def _select(curve: Curve, kept: NDArray[np.bool_]) -> Curve:
    return Curve(**{name: getattr(curve, name)[kept] for name in _COLUMNS})


def _mean(aligned: Sequence[Curve]) -> Curve:
    return Curve(**{name: np.mean([getattr(curve, name) for curve in aligned], axis=0) for name in _COLUMNS})


def _resample(curves: Sequence[Curve], random: np.random.Generator) -> list[Curve]:
    return [curves[index] for index in random.integers(len(curves), size=len(curves))]
