"""Checks that the settings of every package share. Each raises a ConfigError that names the key.

Comparisons are written so that NaN, for which every comparison is false, is refused.
"""

import math
from collections.abc import Collection, Sequence

from grow.common.errors import ConfigError

LARGEST_SEED = 2**32 - 1
"""Largest seed that NumPy's and Lightning's generators take."""
MOST_THREADS = 4096
"""More CPU threads than any machine has; torch stops at far more."""
LARGEST_SIZE = 2**31 - 1
"""Largest size of a tensor's axis that all kernels index."""


def one_of(key: str, value: str, allowed: Collection[str]) -> None:
    """Refuse a value that is not among the allowed ones."""
    if value not in allowed:
        raise ConfigError(f"{key}={value!r}: expected one of {', '.join(allowed)}.")


def positive(key: str, value: float) -> None:
    """Refuse zero, negative numbers, infinity and NaN."""
    if not 0 < value < math.inf:
        raise ConfigError(f"{key}={value}: expected a number above 0.")


def not_negative(key: str, value: float | None) -> None:
    """Refuse negative numbers, infinity and NaN; accept None, which stands for a default."""
    if value is not None and not 0 <= value < math.inf:
        raise ConfigError(f"{key}={value}: expected 0 or more.")


def at_least_one(key: str, value: int | None, most: int | None = None) -> None:
    """Refuse a count below one, and above the most that makes sense; accept None, which stands for a default."""
    if value is not None and (value < 1 or (most is not None and value > most)):
        wanted = "of at least 1" if most is None else f"from 1 to {most}"
        raise ConfigError(f"{key}={value}: expected a whole number {wanted}.")


def from_to(key: str, value: float, least: float, most: float) -> None:
    """Refuse a number outside of a range, whose ends are inside; and NaN."""
    if not least <= value <= most:
        raise ConfigError(f"{key}={value}: expected a number from {least:g} to {most:g}.")


def seed_of_generators(key: str, value: int) -> None:
    """Refuse a seed that a random generator does not take."""
    if not 0 <= value <= LARGEST_SEED:
        raise ConfigError(f"{key}={value}: expected a whole number from 0 to {LARGEST_SEED}.")


def not_empty(key: str, values: Sequence[object]) -> None:
    """Refuse an empty list."""
    if not values:
        raise ConfigError(f"{key}=[]: expected at least one. Give {key}='[A,B]'.")
