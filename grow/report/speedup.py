"""Speed-up against a baseline: the one function that decides what it is. Tables, figures and pages only show it.

    target     the baseline's final validation loss
    C(curve)   cost at which a curve is first at or below the target: linear interpolation, in the axis, between the
               validation point before the crossing and the one after it
    speed-up   C(baseline) / (C(run) + source cost);   1 and above is good
    saving     1 - (C(run) + source cost) / C(baseline)

The baseline is held to the same rule, so a baseline that touched its final loss early costs what it cost then.
A run whose first validation, before any training, is at the target already has C(run) = 0. With a source cost its
speed-up is C(baseline) / source cost; without one a ratio would be infinite and is not given: the outcome says it.

Three accountings, as in "Stacking Your Transformers" (arXiv 2405.15319, source included), bert2BERT (arXiv 2110.07143,
source free) and between the two: F leaves the source's cost out, I charges all of it, A charges 1/m of it.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from grow.common.errors import DataError
from grow.report.curves import CostAxis, Curve

ACCOUNTINGS = ("F", "I", "A")
"""Source free, source included, source amortised over m targets."""


class SpeedupOutcome(StrEnum):
    """How a run met the baseline's final loss."""

    REACHED = "reached"
    NEVER_REACHED = "never reached"
    ALREADY_THERE = "already there at the first step"
    UNKNOWN = "unknown"


@dataclass(kw_only=True, slots=True)
class Speedup:
    """A verdict on one run, axis and accounting. Costs are in the axis' unit, losses in nats."""

    outcome: SpeedupOutcome
    target_loss: float
    cost_baseline: float
    cost_run: float | None = None
    """Cost to the target, the source's share included; None where never reached or unknown."""
    speedup: float | None = None
    """None where there is no cost_run, or where it is 0."""
    saving: float | None = None
    gap: float | None = None
    """Where never reached: nats between the run's final loss and the target."""

    @property
    def as_ratio(self) -> float:
        """The speed-up as a number that orders any two outcomes: 0 never reached, infinite at no cost."""
        if self.outcome is SpeedupOutcome.UNKNOWN:
            return math.nan
        return 0.0 if self.cost_run is None else self.speedup or math.inf


def source_share(accounting: str, source_cost: float | None, amortised_over: int) -> float | None:
    """What an accounting charges a run for its source; None, never 0, where nobody recorded the cost."""
    if accounting == "F":
        return 0.0
    if source_cost is None:
        return None
    return source_cost if accounting == "I" else source_cost / amortised_over


def speedup(run: Curve, baseline: Curve, *, axis: CostAxis, source_cost: float | None = 0.0) -> Speedup:
    """How much less a run spent than its baseline to get to the baseline's final loss; see the top of this file.

    Args:
        run: curve of the run, its own cost only.
        baseline: curve of the same architecture trained from noise; it has no source, hence no source cost.
        axis: what is counted.
        source_cost: charged to the run on top, in the axis' unit; None where it is unknown.

    Raises:
        DataError: the baseline has no target to give: it did not get below the loss it started from.
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
    """Cost of the first crossing; 0 where the curve starts at or below the target, None where it stays above."""
    reached = np.flatnonzero(curve.loss <= target)
    if not reached.size:
        return None
    if reached[0] == 0:
        return 0.0
    before, after = reached[0] - 1, reached[0]
    share = (curve.loss[before] - target) / (curve.loss[before] - curve.loss[after])
    costs = curve.along(axis)
    return float(costs[before] + share * (costs[after] - costs[before]))
