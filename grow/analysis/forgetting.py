"""How far a grown model falls below its source before it recovers: the dip at the start of HyperCloning's figure 2.

A model that preserves its source's function begins at the source's own score. Training then moves it, and where the
score first gets worse something was forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgetting:
    """One score's dip."""

    own: float
    """The source's score."""
    worst: float
    worst_at_tokens: float
    drop: float
    """How much worse than the source's the worst score is; 0 where it never got worse."""
    recovered_at_tokens: float | None
    """Where the score is back at the source's after its worst, by linear interpolation; None: not within the run."""


def forgetting(tokens: Sequence[float], scores: Sequence[float], own: float, *, higher_is_better: bool) -> Forgetting:
    """The dip of a curve below the source's own score.

    Args:
        tokens: ascending, one a score; at least one.
        scores: of the grown model.
        own: of the source.
        higher_is_better: an accuracy; else a loss.
    """
    sign = 1.0 if higher_is_better else -1.0
    gains = [sign * (score - own) for score in scores]  # below 0: worse than the source
    lowest = min(range(len(gains)), key=gains.__getitem__)
    return Forgetting(
        own=own,
        worst=scores[lowest],
        worst_at_tokens=tokens[lowest],
        drop=max(0.0, -gains[lowest]),
        recovered_at_tokens=_recovered(tokens, gains, lowest),
    )


def _recovered(tokens: Sequence[float], gains: Sequence[float], lowest: int) -> float | None:
    if gains[lowest] >= 0:
        return tokens[lowest]
    for index in range(lowest + 1, len(gains)):
        if gains[index] >= 0:
            share = -gains[index - 1] / (gains[index] - gains[index - 1])
            return tokens[index - 1] + share * (tokens[index] - tokens[index - 1])
    return None
