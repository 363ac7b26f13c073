"""Token files of others, and their indices: Dolma's .npy, Megatron's .bin and .idx, datatrove's .ds and .index."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from grow.common.errors import DataError
from grow.data.manifest import DTYPES

SUFFIXES = (".npy", ".bin", ".ds")
NUMPY_MAGIC = b"\x93NUMPY"
MEGATRON_MAGIC = b"MMIDIDX\x00\x00"
_MEGATRON_DTYPES = {4: "uint32", 8: "uint16"}  # code 4 is int32, of which ids use the positive half


class TokenFile(NamedTuple):
    """A file of raw token ids."""

    path: Path
    dtype: str
    tokens: int
    ends: NDArray[np.int64] | None
    """Where documents end, in tokens, as the index says; None without an index."""


def token_file(path: Path, dtype: str | None) -> TokenFile:
    """Compare a file's size with its dtype and with the index next to it, where its format has one.

    Args:
        path: A file of one of SUFFIXES.
        dtype: Type of the tokens; None takes the index's.

    Raises:
        DataError: they disagree, the index is missing or damaged, or nothing says the dtype.
    """
    ends: NDArray[np.int64] | None = None
    if path.suffix == ".bin":
        found, ends = _megatron(path.with_suffix(".idx"))
        if dtype not in (None, found):
            raise DataError(f"{path}: expected dtype={dtype}, found {found} in its .idx. Leave out dtype.")
        dtype = found
    if dtype is None:
        raise DataError(f"{path}: nothing says its type. Set dtype=uint16 or uint32.")
    with path.open("rb") as raw:
        if raw.read(len(NUMPY_MAGIC)) == NUMPY_MAGIC:
            raise DataError(
                f"{path}: expected raw token ids, found a file of numpy.save. Write it with ndarray.tofile."
            )
    size, itemsize = path.stat().st_size, DTYPES[dtype].itemsize
    if size == 0 or size % itemsize:
        raise DataError(
            f"{path}: expected {dtype} tokens of {itemsize} bytes, found {size} bytes. Is the copy complete?"
        )
    if path.suffix == ".ds":
        ends = _raw(path.with_name(path.name + ".index"), np.dtype("<u8"))
    if ends is not None and (not len(ends) or ends[-1] != size // itemsize or (np.diff(ends, prepend=0) < 0).any()):
        raise DataError(
            f"{path}: expected the {ends[-1] if len(ends) else 0} tokens of its index, found {size // itemsize}. Are "
            "both files complete, and is dtype right?"
        )
    return TokenFile(path, dtype, size // itemsize, ends)


def _megatron(path: Path) -> tuple[str, NDArray[np.int64]]:
    """Return dtype and ends of the documents from Megatron's index, version 1."""
    raw = _raw(path, np.dtype("u1")).astype("u1").tobytes()
    header = np.dtype([("magic", "S9"), ("version", "<u8"), ("code", "u1"), ("sequences", "<u8"), ("documents", "<u8")])
    try:
        if not raw.startswith(MEGATRON_MAGIC):
            raise ValueError("no index of Megatron")
        read = np.frombuffer(raw, header, 1)[0]
        count, documents = int(read["sequences"]), int(read["documents"])
        sizes = np.frombuffer(raw, "<i4", count, header.itemsize)
        first = np.frombuffer(raw, "<i8", documents, header.itemsize + 12 * count)  # sequence that begins a document
        ends = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))[first[1:]]
        return _MEGATRON_DTYPES[int(read["code"])], ends
    except (ValueError, IndexError, KeyError) as error:
        raise DataError(
            f"{path}: expected an index of Megatron with tokens of int32 or uint16, found {error!r}."
        ) from None


def _raw(path: Path, dtype: np.dtype[np.generic]) -> NDArray[np.int64]:
    try:
        return np.fromfile(path, dtype).astype(np.int64)
    except OSError as error:
        raise DataError(f"{path}: expected the index of the tokens, found {error.strerror}. Copy it too.") from None
