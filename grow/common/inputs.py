"""Files to read, on disks or behind URLs: found by name, pattern or list, opened, unpacked, digested."""

import glob
import gzip
import hashlib
import importlib
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, NamedTuple, cast

from grow.common.errors import DataError

GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
PACKED_SUFFIXES = (".gz", ".zst", ".zstd")
_READ_BYTES = 2**20


class Found(NamedTuple):
    """A file that exists."""

    name: str
    """Path or URL."""
    size: int
    """Bytes on the disk."""
    version: str
    """Time of the last change, or the tag that a store gives; empty where neither is known."""


def is_url(name: str) -> bool:
    """Return whether a name is a URL, which fsspec opens."""
    return "://" in name


def names_in_list(path: str) -> list[str]:
    """Return the names in a file of one name a line; lines that begin with # are comments.

    Raises:
        DataError: the list cannot be read.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a file of names, one a line; it cannot be read: {error}.") from None
    return [line for line in lines if line and not line.startswith("#")]


def find(name: str, wanted: Callable[[str], bool]) -> list[Found]:
    """Return the files that a path, a directory, a pattern or a URL of one names, sorted.

    Args:
        name: What the user gave.
        wanted: Whether a file of this name is read.

    Raises:
        DataError: a URL's driver is not installed, or the store cannot be reached.
    """
    if is_url(name):
        return sorted(each for each in _find_remote(name) if wanted(each.name))
    path = Path(name)
    if path.is_dir():
        files = [file for file in path.rglob("*") if wanted(file.name)]
    else:
        files = [path] if path.is_file() else [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207, absolute patterns too
    stats = ((file, file.stat()) for file in files if file.is_file() and wanted(file.name))
    return sorted(Found(str(file), stat.st_size, str(stat.st_mtime_ns)) for file, stat in stats)


def _find_remote(url: str) -> list[Found]:
    with _explained(url):
        system, path = _system(url)
        if any(sign in path for sign in "*?["):
            paths = system.glob(path, detail=True)
        elif system.isdir(path):
            paths = system.find(path, detail=True)
        else:
            paths = {path: system.info(path)}
        return [
            Found(system.unstrip_protocol(path), int(info.get("size") or 0), _version(info))
            for path, info in paths.items()
            if info.get("type") != "directory"
        ]


def _version(info: dict[str, Any]) -> str:
    names = ("ETag", "etag", "LastModified", "mtime", "updated", "created")
    return next((str(info[name]) for name in names if info.get(name) is not None), "")


def _system(url: str) -> tuple[Any, str]:
    fsspec = importlib.import_module("fsspec.core")
    return cast("tuple[Any, str]", fsspec.url_to_fs(url))


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what a URL's driver raises into one error that names the URL.

    Raises:
        DataError: instead of the driver's error.
    """
    try:
        yield
    except ImportError as error:
        drivers = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp", "az": "adlfs"}
        scheme = url.partition("://")[0]
        raise DataError(f"{url}: {error}. Install it: pip install {drivers.get(scheme, 'fsspec')}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{url}: cannot be read: {error!r}. Check the URL and the access to it.") from None


class DigestedFile(io.RawIOBase):
    """A file that is read from front to back, and tells the digest and the number of the bytes that were read."""

    def __init__(self, name: str, file: IO[bytes], on_bytes: Callable[[int], None]) -> None:
        self._name, self._file, self._on_bytes, self._digest = name, file, on_bytes, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        raw = self._next(len(buffer))
        buffer[: len(raw)] = raw
        return len(raw)

    def finish(self) -> str:
        """Read what is left, and return the SHA-256 of the whole."""
        while self._next(_READ_BYTES):
            pass
        return self._digest.hexdigest()

    def _next(self, size: int) -> bytes:
        """Read bytes; a disk or a store that fails is told from a file that is damaged, which may be left out."""
        try:
            raw = self._file.read(size)
        except Exception as error:  # every driver raises its own
            raise DataError(f"{self._name}: cannot be read: {error!r}. Start the same command again.") from None
        self._digest.update(raw)
        self._on_bytes(len(raw))
        return raw


@contextmanager
def opened(name: str) -> Iterator[BinaryIO]:
    """Open a path or URL; it can be read and sought.

    Raises:
        DataError: it cannot be opened.
    """
    if not is_url(name):
        try:
            file = Path(name).open("rb")  # noqa: SIM115, closed below
        except OSError as error:
            raise DataError(f"{name}: cannot be read: {error.strerror}. Check the input.") from None
    else:
        with _explained(name):
            system, path = _system(name)
            file = system.open(path, "rb")
    with file:
        yield file


def unpacked(name: str, raw: io.RawIOBase) -> BinaryIO:
    """Return the content of a file: its first bytes, not its name, tell whether it is gzip, zstd or neither.

    Several members of gzip and several frames of zstd are read as one; zero bytes behind a gzip are left out.

    Raises:
        DataError: it is zstd, and pyarrow is not installed.
    """
    buffered = io.BufferedReader(raw, _READ_BYTES)
    magic = buffered.peek(4)[:4]
    if magic[:2] == GZIP_MAGIC:
        return cast("BinaryIO", gzip.GzipFile(fileobj=buffered))
    if magic == ZSTD_MAGIC:
        arrow = needed("pyarrow", name)
        stream = arrow.CompressedInputStream(arrow.PythonFile(buffered, mode="r"), "zstd")
        return cast("BinaryIO", io.BufferedReader(stream, _READ_BYTES))
    return buffered


UNPACK_ERRORS = (OSError, EOFError, zlib.error)
"""What reading a file that ends early or is damaged raises."""


def needed(package: str, name: str) -> Any:
    """Import an optional package that an input needs.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        top = package.partition(".")[0]
        raise DataError(f"{name}: needs the package {top}. Install it: pip install {top}") from None


def content_suffix(name: str) -> str:
    """Return the suffix of a file's content, without that of its compression."""
    suffixes = [suffix for suffix in PurePosixPath(name).suffixes if suffix not in PACKED_SUFFIXES]
    return suffixes[-1] if suffixes else ""
