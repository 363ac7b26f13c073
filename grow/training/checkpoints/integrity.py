"""Whether a checkpoint is as it was written: its COMPLETE.json names every file of it, with its digest.

Files that COMPLETE.json does not name are not the checkpoint's: they are not read, and nobody removes them.
"""

from fnmatch import fnmatch
from pathlib import Path

from grow.common.checkpoint_names import checkpoint_name
from grow.common.digests import digest_like
from grow.common.errors import CheckpointError
from grow.common.provenance import COMPLETE_FILE, STATE_FILE
from grow.common.records import read_json
from grow.distributed.processes import from_first, gather, own_share
from grow.training.checkpoints.run_state import read_state

AVERAGE_FILES = "average-*.safetensors"
_ALWAYS = ("config.json", "rng.safetensors", STATE_FILE)
_SHOWN = 12  # hexadecimal digits of a digest
_THREADS = 4  # that read one file; the digest of bytes in memory takes one thread a third of a second a gigabyte


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


def difference(checkpoint: Path, *, together: bool = False) -> str | None:
    """Return what keeps a checkpoint from being complete, or None.

    Args:
        checkpoint: Directory of the checkpoint.
        together: Whether all ranks call this, and each reads a share of the files.

    Raises:
        CheckpointError: its files are as they were written, but by another version of Grow.
    """
    expected = from_first(_expected(checkpoint)) if together else _expected(checkpoint)
    if isinstance(expected, str):
        return expected
    names = own_share(sorted(expected)) if together else sorted(expected)
    wrong = [fault for name in names if (fault := _fault(checkpoint / name, expected[name]))]
    if together:
        wrong = sorted(fault for of_a_rank in gather(wrong) for fault in of_a_rank)
    if wrong:
        return ", ".join(wrong)
    step = read_state(checkpoint).step
    return None if checkpoint.name == checkpoint_name(step) else f"it holds step {step}"


def _expected(checkpoint: Path) -> dict[str, str] | str:
    """Return the digests of a checkpoint's files, or why there are none."""
    if not (checkpoint / COMPLETE_FILE).exists():
        return f"it has no {COMPLETE_FILE}, so it was never finished"
    try:
        return digests(checkpoint / COMPLETE_FILE)
    except CheckpointError as error:
        return str(error).rstrip(".")


def window_files(checkpoint: Path) -> list[str]:
    """Return the names of a complete checkpoint's files that hold the averaging window; empty where it has none."""
    return sorted(name for name in digests(checkpoint / COMPLETE_FILE) if fnmatch(name, AVERAGE_FILES))


def foreign_files(checkpoint: Path) -> list[str]:
    """Return the names of what lies in a checkpoint's directory and is not part of it."""
    own = {COMPLETE_FILE, *digests(checkpoint / COMPLETE_FILE)}
    return sorted(path.name for path in checkpoint.iterdir() if path.name not in own)


def holds_the_same(checkpoint: Path, other: Path) -> bool:
    """Return whether two complete checkpoints are equal bit for bit.

    Their times and lengths of rows may differ, and the first one may have lost its averaging window.
    """
    ours, theirs = (digests(path / COMPLETE_FILE) for path in (checkpoint, other))
    dropped = set() if window_files(checkpoint) else set(window_files(other))
    names = theirs.keys() - dropped - {STATE_FILE}
    return ours.keys() - {STATE_FILE} == names and all(
        digest_like(ours[name], other / name, _THREADS) == ours[name] for name in names
    )


def _fault(file: Path, expected: str) -> str | None:
    """Return what is wrong with a file, or None."""
    try:
        found = digest_like(expected, file, _THREADS)
    except FileNotFoundError:
        return f"{file.name} is missing"
    except OSError as error:
        return f"{file.name} cannot be read ({error.strerror})"
    if found == expected:
        return None
    kind = "BLAKE3" if ":" in expected else "SHA-256"
    here, there = (digest.rpartition(":")[2][:_SHOWN] for digest in (found, expected))
    return f"{file.name} is not what was written (its {kind} is {here}..., {COMPLETE_FILE} says {there}...)"
