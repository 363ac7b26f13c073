"""The tensors of a stock checkpoint directory: read one at a time by name, written as a stream of blocks of rows.

Writing never holds more than two blocks in memory. The caller writes into a directory under another name and renames
it when it is complete, so a directory under the final name can be trusted.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from grow.common.errors import CheckpointError
from grow.common.provenance import read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja"),
)
MAX_SHARD_BYTES = 5 * 10**9

_DTYPES = {
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
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


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


class WeightReader:
    """Reads tensors of a directory with `model.safetensors` or its sharded form, or of given safetensors files.

    Args:
        directory: the checkpoint directory.
        files: safetensors files to read; None takes the directory's own.

    Raises:
        CheckpointError: weights are missing, truncated, or in a format that could run code.
    """

    def __init__(self, directory: Path, files: list[Path] | None = None) -> None:
        self.directory = directory
        self.files = weight_files(directory) if files is None else files
        self._place_of = {name: (path, entry) for path in self.files for name, entry in _read_header(path).items()}

    def __contains__(self, name: str) -> bool:
        return name in self._place_of

    @property
    def names(self) -> list[str]:
        """Names of all tensors, in the order of the files."""
        return list(self._place_of)

    def info(self, name: str) -> TensorInfo:
        """Return shape and dtype of a tensor, from the header alone.

        Raises:
            CheckpointError: the dtype is one that Grow cannot read.
        """
        path, entry = self._place_of[name]
        if entry["dtype"] not in _DTYPES:
            raise CheckpointError(f"{path}: tensor {name} has dtype {entry['dtype']}, which Grow cannot read.")
        return TensorInfo(name=name, shape=tuple(entry["shape"]), dtype=_DTYPES[entry["dtype"]])

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor to the CPU. It is not memory-mapped: mapped pages would stay in the process's memory."""
        shape = self.info(name).shape
        return self.read_flat(name, slice(0, prod(shape))).view(shape)

    def read_flat(self, name: str, elements: slice) -> torch.Tensor:
        """Read a range of a tensor's elements, in the order of the file: (stop - start,)."""
        path, entry = self._place_of[name]
        dtype = self.info(name).dtype
        tensor = torch.empty(elements.stop - elements.start, dtype=dtype)
        with path.open("rb") as file:
            file.seek(entry["data_start"] + elements.start * dtype.itemsize)
            file.readinto(tensor.view(torch.uint8).numpy().data)
        return tensor


def weight_files(directory: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint directory.

    Raises:
        CheckpointError: there are none, or the index names one that is missing.
    """
    if (directory / INDEX_FILE).is_file():
        names = sorted(set(read_json(directory / INDEX_FILE)["weight_map"].values()))
        files = [directory / Path(name).name for name in names]
    else:
        files = [directory / SINGLE_FILE]
    missing = [path.name for path in files if not path.is_file()]
    if not missing:
        return files
    if any(directory.glob("*.bin")):
        raise CheckpointError(
            f"{directory}: expected safetensors, found only pickled .bin weights, which can run code when read. "
            "Convert them once: AutoModelForCausalLM.from_pretrained(SOURCE).save_pretrained(DIRECTORY), then use it."
        )
    raise CheckpointError(
        f"{directory}: expected {', '.join(missing)}, found no such file. Fetch the checkpoint again."
    )


def _read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Return for each tensor, by name, dtype, shape and first byte in the file; safetensors checks the file's size."""
    try:
        safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or truncated ({error}). Fetch the checkpoint again.") from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    return {name: {**entry, "data_start": 8 + length + entry["data_offsets"][0]} for name, entry in entries.items()}


def write_weights(
    directory: Path, tensors: list[TensorInfo], blocks: Iterable[torch.Tensor], max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Stream tensors into safetensors files, sharded above a size.

    Args:
        directory: an existing directory.
        tensors: name, shape and dtype of each tensor to write, in order.
        blocks: data of the tensors in the same order, each tensor in one or more blocks of whole rows.
        max_shard_bytes: largest size of one file.
    """
    files, source = files_of(tensors, max_shard_bytes), iter(blocks)
    for name, stored in files.items():
        write_file(directory / name, stored, source)
    write_index(directory, files)


def files_of(tensors: list[TensorInfo], max_shard_bytes: int) -> dict[str, list[TensorInfo]]:
    """Return the name of each file of a checkpoint -> the tensors in it, in order."""
    shards = _split(tensors, max_shard_bytes)
    if len(shards) == 1:
        return {SINGLE_FILE: shards[0]}
    return {f"model-{i + 1:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards)}


def write_index(directory: Path, files: dict[str, list[TensorInfo]]) -> None:
    """Write the index that names each tensor's file, where there are several files."""
    if files.keys() == {SINGLE_FILE}:
        return
    weight_map = {info.name: name for name, stored in files.items() for info in stored}
    total = sum(info.bytes for stored in files.values() for info in stored)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")


def _split(tensors: list[TensorInfo], max_shard_bytes: int) -> list[list[TensorInfo]]:
    shards: list[list[TensorInfo]] = [[]]
    size = 0
    for info in tensors:
        if shards[-1] and size + info.bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(info)
        size += info.bytes
    return shards


def write_file(path: Path, tensors: list[TensorInfo], blocks: Iterator[torch.Tensor]) -> str:
    """Stream tensors into one file and sync it to disk.

    Args:
        path: file to write.
        tensors: name, shape and dtype of each tensor, in order.
        blocks: data of the tensors, as for `write_weights`; only as many blocks as they need are taken.

    Returns:
        SHA-256 of the file.
    """
    digest = hashlib.sha256()
    with path.open("wb") as file, ThreadPoolExecutor(1) as writer:

        def write(data: Any) -> None:
            file.write(data)
            digest.update(data)

        pending = writer.submit(write, _header(tensors))
        for info in tensors:
            remaining = info.bytes
            while remaining:
                block = next(blocks).to(info.dtype).contiguous()  # computed while the one before is written
                remaining -= block.nbytes
                pending.result()
                pending = writer.submit(write, block.view(-1).view(torch.uint8).numpy().data)
        pending.result()
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _header(tensors: list[TensorInfo]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for info in tensors:
        end = start + info.bytes
        entries[info.name] = {"dtype": _DTYPE_NAMES[info.dtype], "shape": info.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files from one model directory to another; a source without any is fine."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copy2(source / name, target / name)
