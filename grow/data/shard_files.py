"""Reads at any place of very many files, of which few are open and none is mapped.

A memory map of a file that is cut kills the process that reads it, maps of thousands of files exceed the limit of open
files, and the system fetches megabytes around every place. `pread` reads what it is asked for, and can fail in words.
"""

import errno
import os
import time
from collections.abc import Iterable

from grow.common.errors import DataError

OPEN_FILES = 256
RETRY_PAUSES_S = (1.0, 3.0, 6.0)
_PASSING_ERRORS = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)  # of network file systems


class ShardFiles:
    """Files that one thread reads; those used last stay open, 256 at most."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}  # path -> descriptor, the one used last at the end

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def read(self, places: Iterable[tuple[str, int]], size: int) -> bytes:
        """Return the bytes of some places, one behind the other; errors that may pass are retried for ten seconds.

        Args:
            places: Path of a file and first byte to read, for each place.
            size: Bytes of each place.

        Raises:
            DataError: a file ends before its place does, or cannot be read.
        """
        pieces = []
        for path, offset in places:
            try:
                piece = os.pread(self._descriptor(path), size, offset)
            except OSError:
                piece = b""
            if len(piece) < size:
                piece = self._read_again(path, offset, size)
            pieces.append(piece)
        return b"".join(pieces)

    def _read_again(self, path: str, offset: int, size: int) -> bytes:
        """Read what could not be read at once: patiently, and in parts, as a system may return less than there is."""
        for pause in (*RETRY_PAUSES_S, None):
            found = b""
            try:
                while len(found) < size:
                    if not (part := os.pread(self._descriptor(path), size - len(found), offset + len(found))):
                        raise DataError(_unreadable(path, offset, size, f"{len(found)} of {size} bytes"))
                    found += part
                return found
            except OSError as error:
                self._close(path)
                if pause is None or error.errno not in _PASSING_ERRORS:
                    raise DataError(_unreadable(path, offset, size, error.strerror or str(error))) from None
                time.sleep(pause)
        raise AssertionError("the last pause returns or raises")

    def will_read(self, path: str, offset: int, size: int) -> None:
        """Ask the system to fetch a part of a file that is read soon; what goes wrong shows when it is read."""
        try:
            os.posix_fadvise(self._descriptor(path), offset, size, os.POSIX_FADV_WILLNEED)
        except OSError:
            self._close(path)

    def _descriptor(self, path: str) -> int:
        """Return the descriptor of a file, which is then the one used last."""
        found = self._open.pop(path, None)
        self._open[path] = descriptor = self._opened(path) if found is None else found
        return descriptor

    def _opened(self, path: str) -> int:
        if len(self._open) >= OPEN_FILES:
            self._close(next(iter(self._open)))
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # else every read fetches what lies behind it
        return descriptor

    def _close(self, path: str) -> None:
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)


def _unreadable(path: str, offset: int, size: int, found: str) -> str:
    return (
        f"{path}: expected a shard of {offset + size} bytes or more, found {found} at byte {offset}. "
        "The file was changed, or its disk fails: copy it again, or prepare the data again."
    )
