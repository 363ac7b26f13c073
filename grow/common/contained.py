"""Files of a directory that somebody else may have made: only those that lie in it are read or copied."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grow.common.errors import CheckpointError


def contained_file(directory: Path, name: str) -> Path:
    """Return the path of a file in a model's or tokenizer's directory; it need not exist.

    A snapshot in the Hugging Face hub's cache consists of links to the blobs of the same repository:
    models--OWNER--NAME/snapshots/REVISION/FILE -> models--OWNER--NAME/blobs/DIGEST.

    Raises:
        CheckpointError: the name, or a symbolic link, leaves the directory.
    """
    try:
        home, found = directory.resolve(), (directory / name).resolve()
        found.is_symlink()  # asks the system for it; resolving takes names that no system has
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name that is too long or holds a NUL
        raise CheckpointError(f"{directory}: expected a file in it, found {name!r} ({error}).") from None
    if any(found.is_relative_to(allowed) for allowed in (home, *_blobs(home))):
        return directory / name
    raise CheckpointError(
        f"{directory}: expected files that lie in this directory, but {name} leads to {found}. A directory from "
        "elsewhere could point at anything on this machine; put a copy of the file in its place."
    )


def _blobs(home: Path) -> list[Path]:
    """Return where the files of a snapshot in the hub's cache lie; an empty list for any other directory."""
    snapshots = [path.parent for path in (home, *home.parents) if path.parent.name == "snapshots"]
    return [path.parent / "blobs" for path in snapshots[:1]]


@contextmanager
def read_errors_named(path: Path) -> Iterator[None]:
    """Turn an error of the system while a file is read in the block into one that names the file and the cause.

    Raises:
        CheckpointError: instead of the system's error.
    """
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: expected this file, but it was removed before it was read. A run that is still training retires "
            "its older checkpoints; name one that it keeps."
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}).") from None
