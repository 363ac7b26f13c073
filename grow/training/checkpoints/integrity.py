"""Whether a checkpoint is as it was written: its COMPLETE.json names every file of it, with its digest.

Files that COMPLETE.json does not name are not the checkpoint's: they are not read, and nobody removes them.
"""

from pathlib import Path

from grow.common.checkpoint_names import checkpoint_name
from grow.common.errors import CheckpointError
from grow.common.provenance import COMPLETE_FILE, STATE_FILE, read_json, sha256
from grow.training.checkpoints.run_state import read_state

_ALWAYS = ("config.json", "rng.safetensors", STATE_FILE)
_SHOWN = 12  # hexadecimal digits of a digest


def digests(path: Path) -> dict[str, str]:
    """Read the digests of a checkpoint's files, by name, from its COMPLETE.json or from another file of that kind.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    content = read_json(path)
    if not (
        isinstance(content, dict)
        and all(isinstance(digest, str) and name == Path(name).name for name, digest in content.items())
        and content.keys() >= set(_ALWAYS)
    ):
        raise CheckpointError(f"{path}: expected the digests of a checkpoint's files by name, found something else.")
    return content


def difference(checkpoint: Path) -> str | None:
    """Return what keeps a checkpoint from being complete, or None.

    Raises:
        CheckpointError: its files are as they were written, but by another version of Grow.
    """
    if not (checkpoint / COMPLETE_FILE).exists():
        return f"it has no {COMPLETE_FILE}, so it was never finished"
    try:
        expected = digests(checkpoint / COMPLETE_FILE)
    except CheckpointError as error:
        return str(error).rstrip(".")
    wrong = [fault for name, digest in expected.items() if (fault := _fault(checkpoint / name, digest))]
    if wrong:
        return ", ".join(wrong)
    step = read_state(checkpoint).step
    return None if checkpoint.name == checkpoint_name(step) else f"it holds step {step}"


def foreign_files(checkpoint: Path) -> list[str]:
    """Return the names of what lies in a checkpoint's directory and is not part of it."""
    own = {COMPLETE_FILE, *digests(checkpoint / COMPLETE_FILE)}
    return sorted(path.name for path in checkpoint.iterdir() if path.name not in own)


def holds_the_same(checkpoint: Path, other: Path) -> bool:
    """Return whether two complete checkpoints are equal bit for bit; their times and lengths of rows may differ."""
    ours, theirs = (digests(path / COMPLETE_FILE) for path in (checkpoint, other))
    return {**ours, STATE_FILE: ""} == {**theirs, STATE_FILE: ""}


def _fault(file: Path, expected: str) -> str | None:
    """Return what is wrong with a file, or None."""
    try:
        found = sha256(file)
    except FileNotFoundError:
        return f"{file.name} is missing"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})"
    if found == expected:
        return None
    return (
        f"{file.name} is not what was written (its SHA-256 is {found[:_SHOWN]}..., {COMPLETE_FILE} says "
        f"{expected[:_SHOWN]}...)"
    )
