"""The definition of speed-up against a baseline. Tables, figures and pages only show what is computed here.

    target     the baseline's final validation loss
    C(curve)   cost at which a curve is first at or below the target, linearly interpolated along the cost axis
               between the validation point before the crossing and the one after it
    speed-up   C(baseline) / (C(run) + source cost);   above 1 the run is faster than the baseline
    saving     1 - (C(run) + source cost) / C(baseline)

The same rule holds for the baseline: where it first reached its final loss early, C(baseline) is the cost at that time.
A run whose first validation, before any training, is at or below the target has C(run) = 0. With a source cost its
speed-up is C(baseline) / source cost. Without one the ratio would be infinite; it is None, and the outcome says why.

There are three accountings of the source's cost:

    F   source free, as in bert2BERT (arXiv 2110.07143): none of it is charged
    I   source included, as in "Stacking Your Transformers" (arXiv 2405.15319): all of it is charged
    A   amortised over m targets: 1/m of it is charged
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from grow.common.errors import DataError
from grow.report.curves import CostAxis, Curve

ACCOUNTINGS = ("F", "I", "A")
"""Source free, source included, source amortised over m targets; see the top of this module."""


class SpeedupOutcome(StrEnum):
    """Whether and how a run reached the baseline's final loss."""

    REACHED = "reached"
    NEVER_REACHED = "never reached"
    ALREADY_THERE = "already there at the first step"
    UNKNOWN = "unknown"


@dataclass(kw_only=True, slots=True)
class Speedup:
    """The speed-up of one run on one axis under one accounting. Costs are in the axis' unit, losses in nats."""

    outcome: SpeedupOutcome
    target_loss: float
    cost_baseline: float
    cost_run: float | None = None
    """Cost of the run to the target, the source's share included; None where never reached or unknown."""
    speedup: float | None = None
    """cost_baseline / cost_run; None where cost_run is None or 0."""
    saving: float | None = None
    """1 - cost_run / cost_baseline; None where cost_run is None."""
    gap: float | None = None
    """Nats between the run's final loss and the target, where it was never reached; else None."""

    @property
    def as_ratio(self) -> float:
        """The speed-up as a number to sort by: 0 for never reached, infinity for no cost, NaN for unknown."""
        if self.outcome is SpeedupOutcome.UNKNOWN:
            return math.nan
        return 0.0 if self.cost_run is None else self.speedup or math.inf


def source_share(accounting: str, source_cost: float | None, amortised_over: int) -> float | None:
    """Return the cost that an accounting charges a run for its source.

    Args:
        accounting: F, I or A.
        source_cost: Cost of the source; None where nobody recorded it.
        amortised_over: M of accounting A.

    Returns:
        The share in the unit of the cost; None, never 0, where it depends on a cost that nobody recorded.
    """
    if accounting == "F":
        return 0.0
    if source_cost is None:
        return None
    return source_cost if accounting == "I" else source_cost / amortised_over


def speedup(run: Curve, baseline: Curve, *, axis: CostAxis, source_cost: float | None = 0.0) -> Speedup:
    """Compute the speed-up of a run to its baseline's final loss; the top of this module defines it.

    Args:
        run: Curve of the run, with its own cost only.
        baseline: Curve of the same architecture trained from noise, which has no source cost.
        axis: Cost to compare: tokens, flops or seconds.
        source_cost: Cost charged to the run for its source, in the axis' unit; None where it is unknown.

    Raises:
        DataError: the baseline never got below the loss it started from, so it gives no target.
    """
    target = baseline.final_loss
    cost_baseline = _cost_to(target, baseline, axis)
    if not cost_baseline:
        raise DataError(
            f"Expected a baseline that learns, found one that starts at {baseline.loss[0]:.4f} nats and ends at "
            f"{target:.4f} after {baseline.tokens[-1]:.0f} tokens. Give a finished run from noise as the baseline."
        )
    cost_run = _cost_to(target, run, axis)
    if cost_run is None:
        gap = run.final_loss - target
        return Speedup(outcome=SpeedupOutcome.NEVER_REACHED, target_loss=target, cost_baseline=cost_baseline, gap=gap)
    if source_cost is None:
        return Speedup(outcome=SpeedupOutcome.UNKNOWN, target_loss=target, cost_baseline=cost_baseline)
    total = cost_run + source_cost
    return Speedup(
        outcome=SpeedupOutcome.REACHED if run.loss[0] > target else SpeedupOutcome.ALREADY_THERE,
        target_loss=target,
        cost_baseline=cost_baseline,
        cost_run=total,
        speedup=cost_baseline / total if total else None,
        saving=1 - total / cost_baseline,
    )


def _cost_to(target: float, curve: Curve, axis: CostAxis) -> float | None:
    """Return the cost at which a curve first reaches the target; 0 at its start, None where it stays above."""
    reached = np.flatnonzero(curve.loss <= target)
    if not reached.size:
        return None
    if reached[0] == 0:
        return 0.0
    before, after = reached[0] - 1, reached[0]
    share = (curve.loss[before] - target) / (curve.loss[before] - curve.loss[after])
    costs = curve.along(axis)
    return float(costs[before] + share * (costs[after] - costs[before]))
