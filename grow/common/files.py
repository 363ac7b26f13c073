"""Directories that appear complete or not at all, and clear errors for disks that are full or read-only."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grow.common.errors import CheckpointError, ConfigError
from grow.common.locks import LockHeldError, lock
from grow.common.temporary import MARKER, discard, finish_publishing, publish, temporary_directory


@contextmanager
def new_directory(output: Path, needed_bytes: int) -> Iterator[Path]:
    """Yield a directory to fill; it gets its final name when the block ends, and is removed when the block fails.

    Args:
        output: Final name of the directory.
        needed_bytes: Bytes that will be written to it.

    Raises:
        CheckpointError: the output exists, or the disk cannot hold it.
    """
    _refuse_existing(output)
    with disk_errors_named(output), temporary_directory(output) as partial:
        check_space(partial, needed_bytes, output)
        yield partial
        publish_new(partial, output)


@contextmanager
def continued_directory(output: Path, needed_bytes: int, ledger: str) -> Iterator[Path]:
    """Yield a directory as `new_directory` does, with the files that a killed process wrote into it before.

    The block that fills it finds those files and can continue where the killed process stopped.

    Args:
        output: Final name of the directory.
        needed_bytes: Bytes it will have in the end, those of the files found in it included.
        ledger: Name of the file that lists what an earlier try has finished.

    Raises:
        CheckpointError: the output exists, another process is making it, the disk cannot hold it, or what lies at the
            name of an unfinished output was not made by Grow.
    """
    with kept_directory(output, needed_bytes, ledger) as partial:
        try:
            yield partial
            publish_new(partial, output)
        except Exception:
            discard(partial)
            raise


@contextmanager
def kept_directory(output: Path, needed_bytes: int, ledger: str, marker: str = MARKER) -> Iterator[Path]:
    """Yield the directory of an unfinished output, which is kept whatever happens in the block.

    Once it is complete, the block gives it its name with `publish_new`. Arguments and errors are those of
    `continued_directory`.

    Args:
        output: Final name of the directory.
        needed_bytes: Bytes it will have in the end.
        ledger: Name of a file or directory by which it is known as Grow's.
        marker: Name of the file that this process locks; processes with different ones share the directory.
    """
    _refuse_existing(output)
    partial = unfinished(output)
    with disk_errors_named(output):
        partial.parent.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(partial, {MARKER, marker, ledger})
        written = sum(file.lstat().st_size for file in partial.glob("*"))
        check_space(partial.parent, needed_bytes - written, output)
        partial.mkdir(exist_ok=True)
        with _locked(partial / marker, output):
            if os.path.lexists(output):  # made while this process opened the marker
                discard(partial)
            _refuse_existing(output)
            yield partial


def unfinished(output: Path) -> Path:
    """Return the name of a directory's unfinished state."""
    return output.with_name(f".{output.name}.partial")


def _refuse_existing(output: Path) -> None:
    """Refuse an output that exists; if a process was killed while it gave it its name, the marker goes first."""
    if os.path.lexists(output):
        finish_publishing(output)
        raise CheckpointError(f"{output}: already exists. Remove it, or choose another output directory.")


@contextmanager
def _locked(path: Path, output: Path) -> Iterator[None]:
    """Keep other processes from making the same directory for the length of a block."""
    try:
        marker = lock(path)
    except (LockHeldError, FileNotFoundError):  # not found: it has just got its final name
        raise CheckpointError(f"{output}: another process is making it. Wait for it, or choose another.") from None
    with marker:
        yield


def _refuse_foreign(partial: Path, signs: set[str]) -> None:
    """Refuse a link, and whatever else Grow did not make; an empty directory may be one that was just begun."""
    if not os.path.lexists(partial):
        return
    found = "a symbolic link" if partial.is_symlink() else "no directory"
    if partial.is_dir() and not partial.is_symlink():
        names = {path.name for path in partial.iterdir() if not path.is_symlink()}
        if names & signs or not any(partial.iterdir()):
            return
        found = "files that Grow did not make"
    raise CheckpointError(
        f"{partial}: expected what an earlier try of the same output left, found {found}. Remove it or move it away, "
        "or choose another output directory."
    )


def publish_new(partial: Path, output: Path) -> None:
    """Give a directory its final name once all of it is on the disk.

    Raises:
        CheckpointError: another process made the output meanwhile.
    """
    try:
        publish(partial, output)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise CheckpointError(
            f"{output}: another process made it meanwhile. Use that one, or choose another output directory."
        ) from None


@contextmanager
def disk_errors_named(output: Path) -> Iterator[None]:
    """Turn an error of a full or read-only disk in the block into one that names the output and the cause.

    Raises:
        CheckpointError: instead of the system's error, or of the error that a library raised with its text.
    """
    try:
        yield
    except Exception as error:
        codes = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
        causes = [os.strerror(code) for code in codes if getattr(error, "errno", None) == code]
        causes += [os.strerror(code) for code in codes if os.strerror(code) in str(error)]
        if isinstance(error, CheckpointError) or not causes:
            raise
        raise CheckpointError(
            f"{output}: cannot be written ({causes[0]}). The unfinished files were removed; everything that was "
            "complete before is still there."
        ) from None


def check_writable(directory: Path, advice: str) -> None:
    """Refuse a directory that results could not be written to, before they are computed.

    Args:
        directory: Directory that will be made where it is missing.
        advice: Last sentence of the error: what to do.

    Raises:
        ConfigError: it is not a directory, or this user or its disk does not allow it.
    """
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise ConfigError(f"{directory}: expected a directory to write to, but {existing} is none. {advice}")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"{directory}: expected a directory to write to, but {existing} is read-only here. {advice}")


def check_space(directory: Path, needed_bytes: int, output: Path) -> None:
    """Refuse to write more than the disk can hold.

    Args:
        directory: Existing directory on the disk.
        needed_bytes: Bytes that will be written.
        output: Name that the error message gives.

    Raises:
        CheckpointError: the disk has fewer bytes free than needed.
    """
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise CheckpointError(
            f"{output}: needs {needed_bytes / 1e9:.2f} GB, but the disk has {free / 1e9:.2f} GB free. "
            "Free some space or choose another disk."
        )
