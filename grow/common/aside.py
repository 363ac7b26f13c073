"""Moves a file or directory out of the way without losing it."""

import itertools
import os
import time
from pathlib import Path

from grow.common.errors import CheckpointError


def move_aside(path: Path) -> Path:
    """Rename a file or directory to NAME.before-TIME, which lies next to it, and return its new path.

    Raises:
        CheckpointError: it cannot be renamed.
    """
    named = path.with_name(f"{path.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
    others = (named.with_name(f"{named.name}-{number}") for number in itertools.count(2))
    aside = next(each for each in itertools.chain([named], others) if not os.path.lexists(each))
    try:
        path.rename(aside)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be moved to {aside} ({error.strerror}). Move it by hand.") from None
    return aside
