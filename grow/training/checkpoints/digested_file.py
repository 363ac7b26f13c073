"""Writes tensors to a safetensors file and digests them on the way, so that no byte is read again to be digested."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from grow.common.digests import ContentDigest
from grow.families.tensor_file import DTYPES, METADATA

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def save_digested(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> str:
    """Write tensors on the host to a new file, bring it to the disk and return its digest.

    Args:
        tensors: Tensors by name; they are written in this order.
        path: File to write.
        metadata: Texts for the header.

    Raises:
        OSError: the file cannot be written.
    """
    digest = ContentDigest()
    with path.open("wb", buffering=0) as file:
        for data in (_header(tensors, metadata), *(_bytes_of(tensor) for tensor in tensors.values())):
            _write_all(file.fileno(), data)
            digest.update(data)
        os.fsync(file.fileno())
    return digest.text


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> memoryview:
    entries: dict[str, object] = {METADATA: dict(metadata)}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.nbytes
        entries[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned to 8 bytes
    return memoryview(len(text).to_bytes(8, "little") + text)


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def _write_all(handle: int, data: memoryview) -> None:
    while len(data):  # one call writes 2 GiB at most
        data = data[os.write(handle, data) :]
