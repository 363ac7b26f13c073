"""One safetensors file: its header is checked against the file's size, and its tensors are read by position.

    length of the header (8 bytes, little-endian) | header (JSON) | data of the tensors, without gaps

Nothing is memory-mapped: a file that is cut while it is mapped kills the process, and mapped pages stay in its memory.
Format: https://huggingface.co/docs/safetensors.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from grow.common.contained import read_errors_named
from grow.common.errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
METADATA = "__metadata__"
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
_MAX_DIMS, _MAX_SIZE = 64, 2**63  # torch's limits
_OTHER_BITS = {"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "U32": 32, "U64": 64, "C64": 64}


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """Name, shape and dtype of a tensor, as in a checkpoint's header."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Size of the tensor's data."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """What tells whether a file is still the one whose header was read."""

    size: int
    modified: int
    """Nanoseconds."""

    @classmethod
    def of(cls, file: BinaryIO) -> "Stamp":
        """Return the stamp of an open file."""
        status = os.fstat(file.fileno())
        return cls(size=status.st_size, modified=status.st_mtime_ns)


def read_elements(path: Path, stamp: Stamp, first_byte: int, elements: int, dtype: torch.dtype) -> Tensor:
    """Read consecutive elements of a file: (elements,).

    Args:
        path: File to read.
        stamp: Stamp of the file when its header was read.
        first_byte: Position of the first element.
        elements: Number of elements.
        dtype: Type of the elements.

    Raises:
        CheckpointError: the file was cut, changed or removed since its header was read, or cannot be read.
    """
    tensor = torch.empty(elements, dtype=dtype)
    with read_errors_named(path), path.open("rb") as file:
        file.seek(first_byte)
        got = file.readinto(tensor.view(torch.uint8).numpy().data) if elements else 0
        now = Stamp.of(file)
    if got != tensor.nbytes or now != stamp:
        raise CheckpointError(
            f"{path}: was changed while it was read (expected {stamp.size:,} bytes as when it was opened, found "
            f"{now.size:,}; {got:,} of {tensor.nbytes:,} bytes read). Wait until nothing writes to it, and start again."
        )
    return tensor


class TensorFile:
    """The tensors of one safetensors file.

    Args:
        path: File to open; only its header is read.

    Raises:
        CheckpointError: the file is missing or damaged, or its header does not describe it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with read_errors_named(path), path.open("rb") as file:
            self._stamp = Stamp.of(file)
            header = self._header(file)
        metadata = header.pop(METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise self._damaged(f"{METADATA} is not a table of texts")
        self.metadata: dict[str, str] = metadata
        self._check_entries(header)
        self._entries: Mapping[str, Mapping[str, Any]] = header

    @property
    def names(self) -> list[str]:
        """Names of all tensors, in the header's order."""
        return list(self._entries)

    def info(self, name: str) -> TensorInfo:
        """Return shape and dtype of a tensor, from the header alone.

        Raises:
            CheckpointError: the dtype is one that Grow cannot read.
        """
        entry = self._entries[name]
        if entry["dtype"] not in DTYPES:
            raise CheckpointError(
                f"{self.path}: tensor {name} has dtype {entry['dtype']}, which Grow cannot read. Convert the "
                f"weights to one of {', '.join(DTYPES)}."
            )
        return TensorInfo(name=name, shape=tuple(entry["shape"]), dtype=DTYPES[entry["dtype"]])

    def read(self, name: str) -> Tensor:
        """Read a whole tensor."""
        info = self.info(name)
        return self.read_flat(name, slice(0, prod(info.shape))).view(info.shape)

    def read_flat(self, name: str, elements: slice) -> Tensor:
        """Read a range of a tensor's elements, in the order of the file: (stop - start,).

        Raises:
            CheckpointError: the file was cut, changed or removed since it was opened, or cannot be read.
        """
        dtype = self.info(name).dtype
        first_byte = self._data_start + self._entries[name]["data_offsets"][0] + elements.start * dtype.itemsize
        return read_elements(self.path, self._stamp, first_byte, elements.stop - elements.start, dtype)

    def _header(self, file: BinaryIO) -> dict[str, Any]:
        length = int.from_bytes(file.read(8), "little")
        self._data_start = 8 + length
        if self._data_start > self._stamp.size or length > _MAX_HEADER_BYTES:
            raise self._damaged(f"its header would have {length:,} bytes, the file has {self._stamp.size:,}")
        try:
            header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"its header is not what safetensors writes: {error}") from None
        if not isinstance(header, dict):
            raise self._damaged("its header is not a table of tensors")
        return header

    def _check_entries(self, entries: Mapping[str, Any]) -> None:
        """Refuse tensors that overlap, leave gaps, or together have another size than the file's data."""
        spans = []
        for name, entry in entries.items():
            if not _is_entry(entry):
                raise self._damaged(f"the entry of tensor {name} is not a dtype, a shape and two offsets")
            spans.append((*entry["data_offsets"], name))
            bits = _bits(entry["dtype"])
            expected = None if bits is None else prod(entry["shape"]) * bits // 8
            first, last = entry["data_offsets"]
            if expected is not None and last - first != expected:
                raise self._damaged(f"tensor {name} needs {expected:,} bytes and has {last - first:,}")
        end = 0
        for first, last, name in sorted(spans):
            if first != end or last < first:
                raise self._damaged(f"tensor {name} begins at byte {first:,} of the data, expected {end:,}")
            end = last
        if self._data_start + end != self._stamp.size:
            raise self._damaged(f"expected {self._data_start + end:,} bytes, found {self._stamp.size:,}")

    def _damaged(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: damaged or truncated ({reason}). Fetch the checkpoint again.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; a name that comes twice would hide one of the two."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} comes twice")
    return found


def _is_entry(entry: Any) -> bool:
    """Return whether a value of the header has the form of a tensor's description."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return False
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (_are_sizes(shape) and _are_sizes(offsets) and isinstance(entry["dtype"], str)):
        return False
    return len(offsets) == 2 and len(shape) <= _MAX_DIMS and prod(filter(None, shape)) < _MAX_SIZE


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < _MAX_SIZE for value in values)


def _bits(dtype: str) -> int | None:
    """Return the bits of an element; None for a type that is unknown here."""
    return DTYPES[dtype].itemsize * 8 if dtype in DTYPES else _OTHER_BITS.get(dtype)
