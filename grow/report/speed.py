"""Whether the times of runs may be compared: only where they were measured alike.

Arms of equal FLOPs a token do equal work, so they train at equal speed on a machine that does nothing else. Where they
did not, their times say more about the machine than about the recipes.
"""

import itertools
import math
from collections.abc import Sequence

from grow.report.arms import Arm

_MOST_APART = 1.15  # speeds of the faster and the slower arm
_EQUAL_FLOPS = 0.01  # relative difference of FLOPs a token


def unlike_speeds(arms: Sequence[Arm]) -> str | None:
    """Return the sentence that says why the times of arms are not compared; None where they may be."""
    found = [(slow, fast) for slow, fast in itertools.permutations(arms, 2) if _unlike(slow, fast)]
    if not found:
        return None
    slow, fast = max(found, key=lambda pair: _tokens_per_second(pair[1]) / _tokens_per_second(pair[0]))
    return (
        f"Time is left out: {slow.label} trained at {_tokens_per_second(slow):,.0f} tokens/s and {fast.label} at "
        f"{_tokens_per_second(fast):,.0f} at equal FLOPs a token, so one of them ran on a busy or another machine."
    )


def _unlike(slow: Arm, fast: Arm) -> bool:
    """Return whether the first arm was clearly slower than the second at equal FLOPs a token."""
    equal_work = math.isclose(_flops_per_token(slow), _flops_per_token(fast), rel_tol=_EQUAL_FLOPS)
    return equal_work and _tokens_per_second(fast) > _MOST_APART * _tokens_per_second(slow)


def _flops_per_token(arm: Arm) -> float:
    return float(arm.curve.flops[-1] / max(arm.curve.tokens[-1], 1))


def _tokens_per_second(arm: Arm) -> float:
    return float(arm.curve.tokens[-1] / max(arm.curve.seconds[-1], 1e-9))
