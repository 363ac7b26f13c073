"""Locks on files: one process at a time, on all machines that share the filesystem, until it ends or is killed.

The locks are those of open file descriptions (F_OFD_SETLK of fcntl(2)). NFS carries them between machines, unlike
`flock` on a directory; and unlike those of `lockf`, they stay when another handle of the file is closed.
"""

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import IO

from grow.common.errors import CheckpointError

_WHOLE_FILE = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # struct flock; l_pid has to be 0


class LockHeldError(Exception):
    """Another process holds the lock. The message is what that process wrote into the file, perhaps nothing."""


def lock(path: Path, *, wait: bool = False) -> IO[str]:
    """Open a file, which is made where it is missing, and lock it.

    Args:
        path: File to lock. It may be removed or moved away while it is locked.
        wait: Whether to wait for the process that holds the lock.

    Returns:
        The open file; closing it releases the lock.

    Raises:
        LockHeldError: another process holds the lock.
        CheckpointError: the filesystem has no locks.
    """
    while True:
        file = path.open("a+")
        try:
            if not take(file.fileno(), wait=wait):
                file.seek(0)
                raise LockHeldError(file.read().strip())
            if _is_file_at(path, file):
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # moved away or removed between opening and locking: another process may have locked the next one


def take(handle: int, *, wait: bool = False) -> bool:
    """Lock an open file, and return whether it is locked now; False where another process holds the lock.

    Raises:
        CheckpointError: the filesystem has no locks.
    """
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, _WHOLE_FILE)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise CheckpointError(
            f"{Path(f'/proc/self/fd/{handle}').resolve()}: cannot be locked ({error.strerror}). Its filesystem gives "
            "no locks now, without which two processes could write here at once. Choose a directory on another "
            "filesystem, or have locks turned on for this one (NFS: no option nolock, and lockd running)."
        ) from None
    return True


def _is_file_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
