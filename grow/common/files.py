"""Directories that appear whole or not at all, and what to say of disks that are full or may not be written."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grow.common.errors import CheckpointError


@contextmanager
def new_directory(output: Path, needed_bytes: int) -> Iterator[Path]:
    """A directory to fill, which gets its final name when the block ends and vanishes when the block fails.

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
    """As `new_directory`, but what a killed process had in it is still there when the same command comes again.

    Raises:
        CheckpointError: the output exists, another process is making it, or the disk cannot hold it.
    """
    _refuse_existing(output)
    partial = output.with_name(f".{output.name}.partial")
    with disk_errors_named(output):
        partial.parent.mkdir(parents=True, exist_ok=True)
        there = sum(file.stat().st_size for file in partial.glob("*"))
        check_space(partial.parent, needed_bytes - there, output)
        partial.mkdir(exist_ok=True)
        with _only_one(partial, output):
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
def _only_one(partial: Path, output: Path) -> Iterator[None]:
    """A lock that a killed process leaves open."""
    handle = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CheckpointError(f"{output}: another process is making it. Wait for it, or choose another.") from None
    finally:
        os.close(handle)


@contextmanager
def disk_errors_named(output: Path) -> Iterator[None]:
    """Say of a disk that is full or may not be written what it is, and what was being written.

    Raises:
        CheckpointError: instead of the system's error, or of what a library made of it.
    """
    try:
        yield
    except Exception as error:
        codes = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
        said = [os.strerror(code) for code in codes if getattr(error, "errno", None) == code]
        said += [os.strerror(code) for code in codes if os.strerror(code) in str(error)]
        if isinstance(error, CheckpointError) or not said:
            raise
        raise CheckpointError(
            f"{output}: cannot be written ({said[0]}). Nothing was left behind; what was complete before still is."
        ) from None


def check_space(directory: Path, needed_bytes: int, output: Path) -> None:
    """Refuse to write what the disk cannot hold.

    Raises:
        CheckpointError: there is less free than needed.
    """
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise CheckpointError(
            f"{output}: needs {needed_bytes / 1e9:.2f} GB, but the disk has {free / 1e9:.2f} GB free. "
            "Free some space or choose another disk."
        )
