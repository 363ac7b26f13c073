"""Checks that the settings of every package share. Each raises a ConfigError that names the key."""

from collections.abc import Collection, Sequence

from grow.common.errors import ConfigError


def one_of(key: str, value: str, allowed: Collection[str]) -> None:
    """Refuse a value that is not among the allowed ones."""
    if value not in allowed:
        raise ConfigError(f"{key}={value!r}: expected one of {', '.join(allowed)}.")


def positive(key: str, value: float) -> None:
    """Refuse zero and negative numbers."""
    if value <= 0:
        raise ConfigError(f"{key}={value}: expected a number above 0.")


def at_least_one(key: str, value: int | None) -> None:
    """Refuse a count below one; accept None, which stands for a default."""
    if value is not None and value < 1:
        raise ConfigError(f"{key}={value}: expected a whole number of at least 1.")


def not_empty(key: str, values: Sequence[object]) -> None:
    """Refuse an empty list."""
    if not values:
        raise ConfigError(f"{key}=[]: expected at least one. Give {key}='[A,B]'.")
