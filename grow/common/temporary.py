"""Temporary files and directories next to what they become: random names, no link followed, removed by their maker.

A directory under construction has a marker in it, which its maker holds locked. So a directory that a killed process
left is known as Grow's and as nobody's any more, and the next maker of the same output removes it. Process ids would
not tell: they begin anew in every container.
"""

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TextIO

from grow.common.errors import CheckpointError
from grow.common.locks import LockHeldError, lock

MARKER = ".grow.lock"
_WITHOUT_SYNC = (errno.EINVAL, errno.ENOTSUP)  # some network filesystems cannot sync a directory
_SECONDS_TO_WRITE_A_FILE = 3600


@contextmanager
def temporary_directory(output: Path) -> Iterator[Path]:
    """Yield a new directory next to `output`, empty but for its marker; what is left of it after the block is removed.

    Directories that killed processes left when they made the same output are removed first.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    _reclaim_directories(output)
    with ExitStack() as held:
        directory = _made_and_locked(output, held)
        try:
            yield directory
        finally:
            discard(directory)


def _made_and_locked(output: Path, held: ExitStack) -> Path:
    """Make a temporary directory of an output and lock its marker until `held` is closed.

    Another process may take the directory for one that was left until it is locked, and remove it: another is made.
    """
    while True:
        directory = _temporary_name(output)
        directory.mkdir()
        try:
            held.enter_context(_locked(directory))
        except (LockHeldError, FileNotFoundError):
            discard(directory)
        else:
            return directory


def publish(directory: Path, output: Path) -> None:
    """Give a temporary directory its final name once all of it is on the disk, readable as the umask says."""
    settle(directory)
    directory.replace(output)
    (output / MARKER).unlink(missing_ok=True)  # last, so that a process killed here leaves what is known as Grow's
    to_disk(output.parent)


def finish_publishing(output: Path) -> None:
    """Remove the marker of a directory whose maker was killed right after it gave the directory its final name."""
    marker = output / MARKER
    if marker.is_file() and not marker.is_symlink():
        with suppress(OSError, LockHeldError, CheckpointError), lock(marker):
            marker.unlink(missing_ok=True)


def settle(directory: Path) -> None:
    """Bring a directory and all that is in it to the disk, with the modes that the umask gives."""
    for folder, _, files in os.walk(directory):
        for file in (Path(folder) / name for name in files):
            if not file.is_symlink():
                share(file)
                to_disk(file)
        to_disk(Path(folder))


def share(file: Path) -> None:
    """Let those read and write a file who may do so in its directory; safetensors makes files for their owner alone."""
    with suppress(OSError):  # a filesystem without modes
        file.chmod(file.parent.stat().st_mode & 0o666)


def to_disk(path: Path) -> None:
    """Wait until a file or a directory's entries are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _WITHOUT_SYNC or not path.is_dir():
            raise
    finally:
        os.close(handle)


@contextmanager
def replaced_file(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Yield a text file that takes the place of `path` when the block ends; a reader sees the old file or the new one.

    Args:
        path: Final name of the file.
        newline: As `open` takes it.
    """
    _reclaim_files(path)
    partial = _temporary_name(path)
    try:
        with partial.open("x", newline=newline) as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a directory, or the file or link found in its place, if there is any; never what a link leads to.

    The marker of a temporary directory goes last: what is left by a process killed here is still known as Grow's.
    """
    if path.is_dir() and not path.is_symlink():
        for inside in path.iterdir():
            if inside.name != MARKER:
                remove(inside)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Remove what `remove` does, as far as the system lets us."""
    with suppress(OSError):
        remove(path)


def _temporary_name(output: Path) -> Path:
    return output.with_name(f".{output.name}.{secrets.token_hex(4)}.partial")


def _left_by_others(output: Path) -> list[Path]:
    """Return the temporary files and directories of an output that are there; links are none."""
    name = re.compile(rf"\.{re.escape(output.name)}\.[0-9a-f]{{8}}\.partial")
    return [path for path in output.parent.iterdir() if name.fullmatch(path.name) and not path.is_symlink()]


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory's marker for the length of a block, where the filesystem has locks.

    Where it has none, nobody can tell what was left from what is being made, and nothing is ever reclaimed.
    """
    try:
        marker: AbstractContextManager[object] = lock(directory / MARKER)
    except CheckpointError:
        marker = nullcontext()
    with marker:
        yield


def _reclaim_directories(output: Path) -> None:
    """Remove the directories of an output that killed processes left: empty, or with a marker that nobody locks."""
    for left in _left_by_others(output):
        marker = left / MARKER
        if marker.is_file() and not marker.is_symlink():
            with suppress(OSError, LockHeldError, CheckpointError), lock(marker):
                remove(left)
        elif left.is_dir():
            with suppress(OSError):  # it is not empty: not ours
                left.rmdir()


def _reclaim_files(path: Path) -> None:
    for left in _left_by_others(path):
        with suppress(OSError):
            if left.is_file() and left.stat().st_mtime < time.time() - _SECONDS_TO_WRITE_A_FILE:
                left.unlink()
