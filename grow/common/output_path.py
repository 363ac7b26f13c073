"""Whether something can be written to a path, told before any work is done for it."""

import os
from pathlib import Path

from grow.common.errors import ConfigError

_LONGEST_NAME, _LONGEST_PATH = 255, 4096  # bytes, of Linux's filesystems


def refuse_impossible(key: str, path: str) -> None:
    """Refuse a path that no filesystem takes: empty, or too long.

    Raises:
        ConfigError: naming the key.
    """
    if not path or "\0" in path:
        raise ConfigError(f"{key}={path!r}: expected a path, found {'a null byte' if path else 'none'}.")
    longest = max(len(part) for part in os.fsencode(path).split(b"/"))
    if longest > _LONGEST_NAME - len(".partial") or len(os.fsencode(Path(path).absolute())) > _LONGEST_PATH - 256:
        raise ConfigError(
            f"{key}={path[:40]}...: expected a path that a filesystem takes, found one of {len(path)} characters whose "
            f"longest part has {longest} bytes. Choose a shorter one."
        )


def refuse_unwritable(key: str, path: str, *, is_file: bool = False) -> None:
    """Refuse a path at which nothing can be written: something else is there, or a parent is no directory.

    Args:
        key: Key of the configuration that names the path.
        path: Path to write, which need not exist.
        is_file: Whether a file is to be written there instead of a directory.

    Raises:
        ConfigError: naming the key, and what is in the way.
    """
    refuse_impossible(key, path)
    target = Path(path).absolute()
    for place in (target, *target.parents):
        if place.is_symlink() and not place.exists():
            raise ConfigError(
                f"{key}={path}: {place} is a link to {place.readlink()}, which does not exist. Remove it."
            )
    if target.exists() and target.is_dir() is is_file:
        found, expected = ("directory", "file") if is_file else ("file", "directory")
        raise ConfigError(f"{key}={path}: expected a {expected} or nothing yet, found a {found}. Choose another path.")
    nearest = next(place for place in (target, *target.parents) if place.exists())
    if nearest != target and not nearest.is_dir():
        raise ConfigError(f"{key}={path}: {nearest} is a file, so nothing can be made in it. Choose another path.")
    if not os.access(nearest, os.W_OK):
        raise ConfigError(f"{key}={path}: {nearest} cannot be written. Change its permissions or choose another path.")
