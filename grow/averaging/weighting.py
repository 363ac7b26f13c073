"""The weight of each snapshot in an average: uniform, exponential, or derived from a learning-rate decay.

A decay scales the i-th update after the oldest of n snapshots, theta_i - theta_(i-1), by w_i. Applied to snapshots of
a constant rate this is a weighted mean (WSM, arXiv 2507.17634):

    theta_0 + sum_i w_i (theta_i - theta_(i-1)) = sum_j c_j theta_j
    c_0 = 1 - w_1,   c_j = w_j - w_(j+1),   c_(n-1) = w_(n-1)

A linear decay, w_i = 1 - i/n, gives c_j = 1/n: LAWA is an emulated linear cooldown over its window.
"""

import math
from dataclasses import dataclass

from grow.averaging.settings import AveragingSettings

_REMAINING = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "minus_sqrt": lambda done: 1 - math.sqrt(done),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighting:
    """A fold over snapshots, oldest first: total = keep * total + takes[i] * snapshot_i; average = total / divisor."""

    keep: float
    takes: tuple[float, ...]
    divisor: int

    @property
    def shares(self) -> list[float]:
        """Share of each snapshot in the average, oldest first; they sum to 1."""
        last = len(self.takes) - 1
        return [take * self.keep ** (last - i) / self.divisor for i, take in enumerate(self.takes)]


def weighting(settings: AveragingSettings, snapshots: int) -> Weighting:
    """Return the weighting of this many snapshots."""
    if settings.kind == "ema":
        return exponential(ema_decay(settings), snapshots)
    if settings.kind == "wsm":
        return emulated_decay(str(settings.curve), snapshots)
    return uniform(snapshots)


def uniform(snapshots: int) -> Weighting:
    """Weight all alike. Sums are divided once at the end, so equal snapshots average to the same bits."""
    return Weighting(keep=1.0, takes=(1.0,) * snapshots, divisor=snapshots)


def exponential(decay: float, snapshots: int) -> Weighting:
    """Weight each snapshot `decay` times the next; the oldest also gets the weight of all before it."""
    return Weighting(keep=decay, takes=(1.0, *[1 - decay] * (snapshots - 1)), divisor=1)


def emulated_decay(curve: str, snapshots: int) -> Weighting:
    """Return the weights with which a mean of constant-rate snapshots emulates a decayed run (WSM; see the module)."""
    remaining = [_REMAINING[curve](i / snapshots) for i in range(snapshots)]  # w_0 = 1
    takes = [now - after for now, after in zip(remaining, [*remaining[1:], 0.0], strict=True)]
    return Weighting(keep=1.0, takes=tuple(takes), divisor=1)


def ema_decay(settings: AveragingSettings) -> float:
    """Return the given decay, or the one with the mean age of snapshots of a window of k."""
    return settings.decay if settings.decay is not None else (settings.k - 1) / (settings.k + 1)  # type: ignore[operator]
