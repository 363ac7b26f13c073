"""How much each snapshot counts: uniform, exponential, or derived from a learning rate's decay.

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
        """What each snapshot, oldest first, contributes to the average; they sum to 1."""
        last = len(self.takes) - 1
        return [take * self.keep ** (last - i) / self.divisor for i, take in enumerate(self.takes)]


def weighting(settings: AveragingSettings, snapshots: int) -> Weighting:
    """How this many snapshots become one."""
    if settings.kind == "ema":
        return exponential(ema_decay(settings), snapshots)
    if settings.kind == "wsm":
        return emulated_decay(str(settings.curve), snapshots)
    return uniform(snapshots)


def uniform(snapshots: int) -> Weighting:
    """Each counts alike. Summed first and divided once, so that equal snapshots give the same bits back."""
    return Weighting(keep=1.0, takes=(1.0,) * snapshots, divisor=snapshots)


def exponential(decay: float, snapshots: int) -> Weighting:
    """Each counts `decay` times the next; the oldest stands for all before it."""
    return Weighting(keep=decay, takes=(1.0, *[1 - decay] * (snapshots - 1)), divisor=1)


def emulated_decay(curve: str, snapshots: int) -> Weighting:
    """The weights under which a mean of constant-rate snapshots stands for a decayed run (see above)."""
    remaining = [_REMAINING[curve](i / snapshots) for i in range(snapshots)]  # w_0 = 1
    takes = [now - after for now, after in zip(remaining, [*remaining[1:], 0.0], strict=True)]
    return Weighting(keep=1.0, takes=tuple(takes), divisor=1)


def ema_decay(settings: AveragingSettings) -> float:
    """The decay given, or the one whose snapshots are as old, in the mean, as those of a window of k."""
    return settings.decay if settings.decay is not None else (settings.k - 1) / (settings.k + 1)  # type: ignore[operator]
