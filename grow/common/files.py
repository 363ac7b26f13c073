"""Directories that appear complete or not at all, and clear errors for disks that are full or read-only."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grow.common.errors import CheckpointError
from grow.common.locks import LockHeldError, lock


@contextmanager
def new_directory(output: Path, needed_bytes: int) -> Iterator[Path]:
    """Yield a directory to fill; it gets its final name when the block ends, and is removed when the block fails.

    Args:
        output: final name of the directory.
        needed_bytes: bytes that will be written to it.

    Raises:
        CheckpointError: the output exists, or the disk cannot hold it.
    """
    _refuse_existing(output)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        with disk_errors_named(output):
            partial.mkdir(parents=True)
            check_space(partial, needed_bytes, output)
            yield partial
            partial.replace(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def continued_directory(output: Path, needed_bytes: int) -> Iterator[Path]:
    """Yield a directory as `new_directory` does, with the files that a killed process wrote into it before.

    The block that fills it finds those files and can continue where the killed process stopped.

    Args:
        output: final name of the directory.
        needed_bytes: bytes it will have in the end, those of the files found in it included.

    Raises:
        CheckpointError: the output exists, another process is making it, or the disk cannot hold it.
    """
    _refuse_existing(output)
    partial = output.with_name(f".{output.name}.partial")
    with disk_errors_named(output):
        partial.parent.mkdir(parents=True, exist_ok=True)
        written = sum(file.stat().st_size for file in partial.glob("*"))
        check_space(partial.parent, needed_bytes - written, output)
        with _locked(output):
            partial.mkdir(exist_ok=True)
            try:
                yield partial
                partial.replace(output)
            except Exception:
                shutil.rmtree(partial, ignore_errors=True)
                raise


def _refuse_existing(output: Path) -> None:
    if output.exists():
        raise CheckpointError(f"{output}: already exists. Remove it, or choose another output directory.")


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Keep other processes from making the same directory for the length of a block."""
    path = output.with_name(f".{output.name}.lock")
    try:
        file = lock(path)
    except LockHeldError:
        raise CheckpointError(f"{output}: another process is making it. Wait for it, or choose another.") from None
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


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


def check_space(directory: Path, needed_bytes: int, output: Path) -> None:
    """Refuse to write more than the disk can hold.

    Args:
        directory: existing directory on the disk.
        needed_bytes: bytes that will be written.
        output: name that the error message gives.

    Raises:
        CheckpointError: the disk has fewer bytes free than needed.
    """
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise CheckpointError(
            f"{output}: needs {needed_bytes / 1e9:.2f} GB, but the disk has {free / 1e9:.2f} GB free. "
            "Free some space or choose another disk."
        )
