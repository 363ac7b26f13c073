"""Forgetting: how far a grown model falls below its source before it recovers, as at the start of HyperCloning's
figure 2 (arXiv 2409.12903).

A model that preserves its source's function starts at the source's own score. Where training first makes that score
worse, the model has forgotten something.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgetting:
    """The dip of one score."""

    own: float
    """Score of the source."""
    worst: float
    """Worst score of the grown model."""
    worst_at_tokens: float
    """Tokens at the worst score."""
    drop: float
    """Difference between the source's score and the worst one; 0 where the score never got worse."""
    recovered_at_tokens: float | None
    """Tokens at which the score is back at the source's, linearly interpolated; None where the run ended before."""


def forgetting(tokens: Sequence[float], scores: Sequence[float], own: float, *, higher_is_better: bool) -> Forgetting:
    """Compute the dip of a curve below the source's own score.

    Args:
        tokens: Tokens at each score, ascending; at least one.
        scores: Scores of the grown model.
        own: Score of the source.
        higher_is_better: Whether the score is an accuracy; False for a loss.
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
