"""A file that `torch.save` wrote: its tensors' places are found without running code from it, and read by position.

Only tensors in plain containers are unpickled (`torch.load(weights_only=True)`), and without their data.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import torch
from torch import Tensor

from grow.common.contained import read_errors_named
from grow.common.errors import CheckpointError
from grow.families.tensor_file import DTYPES, Stamp, TensorInfo, read_elements

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
_KEYS = ("state_dict", "model", "model_state_dict")


class StateDictReader:
    """Reads tensors of a state dict, which is the file's content or lies in it under `state_dict` or `model`.

    Args:
        path: File to open.

    Raises:
        CheckpointError: the file is missing or damaged, or holds something other than dense tensors.
    """

    def __init__(self, path: Path) -> None:
        self.files = [path]
        with read_errors_named(path), path.open("rb") as file:
            self._stamp = Stamp.of(file)
        self._tensors = _state_dict(path, _load(path))
        for name, tensor in self._tensors.items():
            _check_readable(path, name, tensor)

    @property
    def names(self) -> list[str]:
        """Names of all tensors, in the order of the file."""
        return list(self._tensors)

    def info(self, name: str) -> TensorInfo:
        """Return shape and dtype of a tensor."""
        tensor = self._tensors[name]
        return TensorInfo(name=name, shape=tuple(tensor.shape), dtype=tensor.dtype)

    def read_flat(self, name: str, elements: slice) -> Tensor:
        """Read a range of a tensor's elements, row by row: (stop - start,).

        Raises:
            CheckpointError: the file was cut, changed or removed since it was opened, or cannot be read.
        """
        tensor = self._tensors[name]
        if tensor.is_contiguous():
            return self._stored(tensor, elements.start, elements.stop - elements.start)
        spanned = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        whole = self._stored(tensor, 0, spanned).as_strided(tensor.shape, tensor.stride())
        return whole.reshape(-1)[elements]

    def _stored(self, tensor: Tensor, first: int, elements: int) -> Tensor:
        """Read consecutive elements of a tensor's storage, counted from the tensor's own first one."""
        start = _place(tensor) + (int(tensor.storage_offset()) + first) * tensor.dtype.itemsize
        return read_elements(self.files[0], self._stamp, start, elements, tensor.dtype)


def _load(path: Path) -> Any:
    """Return the file's content with tensors that have no data; their storages know where it lies."""
    try:
        with ZipFile(path) as archive:
            packed = [item.filename for item in archive.infolist() if item.compress_type != ZIP_STORED]
        if packed:
            raise ValueError(f"{packed[0]} in it is compressed")
        return torch.load(path, weights_only=True, map_location="meta")
    except Exception as error:  # torch, pickle and zipfile each raise their own kinds
        raise CheckpointError(
            f"{path}: cannot be read as tensors alone ({' '.join(str(error).split())[:200]}). It is damaged, "
            "older than torch 1.6, or holds objects, which Grow does not load. Save its state dict alone: "
            "torch.save(model.state_dict(), PATH), or the model as safetensors: model.save_pretrained(DIRECTORY)."
        ) from None


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    for key in _KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if isinstance(content, Mapping) and content:
        others = [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
        if not others:
            return dict(content)
    else:
        others = [type(content).__name__]
    raise CheckpointError(
        f"{path}: expected a state dict, names and their tensors, alone or under {', '.join(_KEYS)}; found "
        f"{sorted(map(str, others))[:5]}."
    )


def _check_readable(path: Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is not a dense array of numbers in the file."""
    found = None
    if tensor.layout != torch.strided:
        found = f"is {str(tensor.layout).removeprefix('torch.')}"
    elif tensor.dtype not in DTYPES.values():
        found = f"has dtype {str(tensor.dtype).removeprefix('torch.')}"
    elif tensor.untyped_storage()._checkpoint_offset is None:
        found = "has no values (it was saved on the meta device)"
    if found is not None:
        raise CheckpointError(
            f"{path}: tensor {name} {found}; expected dense tensors of {', '.join(DTYPES)}. Convert it first."
        )


def _place(tensor: Tensor) -> int:
    """Return the position of a storage's first byte in its file."""
    offset = tensor.untyped_storage()._checkpoint_offset
    assert offset is not None  # checked when the file was opened
    return offset
