"""Names of a run's checkpoints: step- and eight digits. Whatever else lies among them is the user's own."""

import re
from pathlib import Path

_NAME = re.compile(r"step-\d{8}", re.ASCII)


def checkpoint_name(step: int) -> str:
    """Return the name of the directory of a step's checkpoint."""
    return f"step-{step:08}"


def checkpoint_directories(checkpoints: Path) -> list[Path]:
    """Return the directories of a run's checkpoints, complete or not, in the order of their steps.

    Args:
        checkpoints: Directory that holds them; it may be missing.
    """
    return sorted(path for path in checkpoints.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir())
