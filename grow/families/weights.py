"""The tensors of a stock checkpoint directory: read one at a time by name, written as a stream of blocks of rows.

Writing never holds more than two blocks in memory. The caller writes into a directory under another name and renames
it when it is complete, so a directory under the final name can be trusted.
"""

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from grow.common.contained import contained_file
from grow.common.digests import ContentDigest
from grow.common.errors import CheckpointError
from grow.common.records import read_json
from grow.families.tensor_file import DTYPES, METADATA, TensorFile, TensorInfo

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class WeightReader:
    """Reads tensors of a directory with `model.safetensors` or its sharded form, or of given safetensors files.

    Args:
        directory: The checkpoint directory.
        files: Safetensors files to read; None takes the directory's own.

    Raises:
        CheckpointError: weights are missing, truncated, or in a format that could run code.
    """

    def __init__(self, directory: Path, files: list[Path] | None = None) -> None:
        self.directory = directory
        self.files = weight_files(directory) if files is None else files
        self._file_of: dict[str, TensorFile] = {}
        for file in map(TensorFile, self.files):
            for name in file.names:
                if (other := self._file_of.setdefault(name, file)) is not file:
                    raise CheckpointError(
                        f"{directory}: tensor {name} is in {other.path.name} and in {file.path.name}, and nothing says "
                        "which of the two counts. Fetch the checkpoint again."
                    )

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    @property
    def names(self) -> list[str]:
        """Names of all tensors, in the order of the files."""
        return list(self._file_of)

    def info(self, name: str) -> TensorInfo:
        """Return shape and dtype of a tensor, from the header alone.

        Raises:
            CheckpointError: the dtype is one that Grow cannot read.
        """
        return self._file_of[name].info(name)

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor to the CPU.

        Raises:
            CheckpointError: its file was cut, changed or removed since it was opened, or cannot be read.
        """
        return self._file_of[name].read(name)

    def refuse_changes(self) -> None:
        """Refuse files that are no longer as they were when they were opened.

        Raises:
            CheckpointError: a file was cut, changed or removed since.
        """
        for name in {file.path: name for name, file in self._file_of.items()}.values():
            self.read_flat(name, slice(0, 0))

    def read_flat(self, name: str, elements: slice) -> torch.Tensor:
        """Read a range of a tensor's elements, in the order of the file: (stop - start,).

        Raises:
            CheckpointError: its file was cut, changed or removed since it was opened, or cannot be read.
        """
        return self._file_of[name].read_flat(name, elements)


def weight_files(directory: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint directory; a single file counts before an index, as in Transformers.

    Raises:
        CheckpointError: there are none, the index is damaged or names one that is missing, or a file lies elsewhere.
    """
    if (directory / INDEX_FILE).is_file() and not (directory / SINGLE_FILE).is_file():
        files = indexed_files(directory, INDEX_FILE)
    else:
        files = [contained_file(directory, SINGLE_FILE)]
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


def indexed_files(directory: Path, index: str) -> list[Path]:
    """Return the files that an index of shards names, in the order of their names; they need not exist.

    Raises:
        CheckpointError: the index is damaged, or names a file outside the directory.
    """
    path = contained_file(directory, index)
    content = read_json(path)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(
            f"{path}: expected a weight_map from each tensor's name to its file's name, found none. Fetch the "
            "checkpoint again."
        )
    return [contained_file(directory, name) for name in sorted(set(names.values()))]


def write_weights(
    directory: Path, tensors: list[TensorInfo], blocks: Iterable[torch.Tensor], max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Stream tensors into safetensors files, sharded above a size.

    Args:
        directory: An existing directory.
        tensors: Name, shape and dtype of each tensor to write, in order.
        blocks: Data of the tensors in the same order, each tensor in one or more blocks of whole rows.
        max_shard_bytes: Largest size of one file.
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
        path: File to write.
        tensors: Name, shape and dtype of each tensor, in order.
        blocks: Data of the tensors, as for `write_weights`; only as many blocks as they need are taken.

    Returns:
        BLAKE3 digest of the file.
    """
    digest = ContentDigest()
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
    return digest.text


def _header(tensors: list[TensorInfo]) -> bytes:
    entries: dict[str, object] = {METADATA: {"format": "pt"}}
    start = 0
    for info in tensors:
        end = start + info.bytes
        entries[info.name] = {"dtype": _DTYPE_NAMES[info.dtype], "shape": info.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text
