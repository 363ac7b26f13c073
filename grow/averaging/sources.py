"""Checkpoints to average: runs, model directories, hub revisions, and weight files of any kind of model.

Pickled state dicts are read only where the user names the file itself, and only as tensors in plain containers
(`torch.load(weights_only=True)`), so no code in them is run.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from grow.common.checkpoint_names import checkpoint_directories
from grow.common.errors import CheckpointError
from grow.common.provenance import COMPLETE_FILE, RUN_FILE, read_json
from grow.families.source_directory import find_source
from grow.families.tensor_file import TensorInfo
from grow.families.weights import INDEX_FILE, SINGLE_FILE, WeightReader, weight_files

_STEP = re.compile(r"(?:step|checkpoint|epoch|iter)[-_]?(\d+)(?!.*\d)", re.IGNORECASE)
_STATE_DICT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
_STATE_DICT_KEYS = ("state_dict", "model", "model_state_dict")


class TensorReader(Protocol):
    """Reads tensors of one checkpoint by name."""

    files: list[Path]

    @property
    def names(self) -> list[str]: ...

    def info(self, name: str) -> TensorInfo: ...

    def read_flat(self, name: str, elements: slice) -> Tensor: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One checkpoint. Tensor names are without the prefixes of data-parallel and compiled wrappers."""

    label: str
    step: int | None
    """Step in the checkpoint's name, if any."""
    directory: Path | None
    """Directory of its configuration and tokenizer, if any."""
    reader: TensorReader
    stored_as: Mapping[str, str] = field(repr=False)
    """Tensor name -> its name in the files."""

    def info(self, name: str) -> TensorInfo:
        """Return name, shape and dtype of a tensor."""
        found = self.reader.info(self.stored_as[name])
        return TensorInfo(name=name, shape=found.shape, dtype=found.dtype)

    def read(self, name: str, elements: slice) -> Tensor:
        """Read some elements of a tensor: (stop - start,)."""
        return self.reader.read_flat(self.stored_as[name], elements)


class StateDictReader:
    """Reads tensors of a file that `torch.save` wrote: a state dict, or one under `state_dict` or `model`."""

    def __init__(self, path: Path) -> None:
        self.files = [path]
        self._tensors = _state_dict(path, _load(path))

    @property
    def names(self) -> list[str]:
        return list(self._tensors)

    def info(self, name: str) -> TensorInfo:
        tensor = self._tensors[name]
        return TensorInfo(name=name, shape=tuple(tensor.shape), dtype=tensor.dtype)

    def read_flat(self, name: str, elements: slice) -> Tensor:
        return self._tensors[name].detach().reshape(-1)[elements]


def find_sources(checkpoints: Sequence[str]) -> list[Source]:
    """Open checkpoints, oldest first; a run stands for all of its complete checkpoints.

    They are sorted by step where all names have one (step-00000500, checkpoint-500, NAME@step500, model_epoch_3.pt);
    else they stay in the given order.

    Raises:
        CheckpointError: a checkpoint is missing or damaged, or is named twice.
    """
    sources = [source for entry in checkpoints for source in _open(entry)]
    steps = [source.step for source in sources]
    if all(step is not None for step in steps):
        sources.sort(key=lambda source: source.step or 0)
    seen: dict[object, Source] = {}
    for source in sources:
        twin = seen.setdefault(tuple(path.resolve() for path in source.reader.files), source)
        if source.step is not None and twin is source:
            twin = seen.setdefault(source.step, source)
        if twin is not source:
            raise CheckpointError(
                f"{twin.label} and {source.label}: the same checkpoint or step twice. Name each once; average runs of "
                "different seeds one by one."
            )
    return sources


def _open(entry: str) -> list[Source]:
    path = Path(entry)
    if path.is_file():
        reader = WeightReader(path.parent, [path]) if path.suffix == ".safetensors" else _pickled(path)
        return [_source(entry, reader, None, path.stem)]
    if path.is_dir() and (path / RUN_FILE).is_file() and (path / "checkpoints").is_dir():
        inside = [each for each in checkpoint_directories(path / "checkpoints") if (each / COMPLETE_FILE).is_file()]
        if not inside:
            raise CheckpointError(
                f"{path}: expected complete checkpoints in this run, found none. Train it with "
                "checkpoint.every_tokens=TOKENS and checkpoint.keep_last=NUMBER."
            )
        return [_from_directory(str(directory), directory, directory.name) for directory in inside]
    named = path.name if path.is_dir() else entry.partition("@")[2]
    return [_from_directory(entry, path if path.is_dir() else find_source(entry), named)]


def _from_directory(label: str, directory: Path, named: str) -> Source:
    return _source(label, WeightReader(directory, files_of(directory)), directory, named)


def _source(label: str, reader: TensorReader, directory: Path | None, named: str) -> Source:
    step = _STEP.search(named)
    return Source(
        label=label,
        step=int(step[1]) if step else None,
        directory=directory,
        reader=reader,
        stored_as=_without_wrappers(reader.names),
    )


def files_of(directory: Path) -> list[Path]:
    """Return the weight files of a directory: under transformers' names, or the only safetensors model in it."""
    if (directory / SINGLE_FILE).is_file() or (directory / INDEX_FILE).is_file():
        return weight_files(directory)
    indices, files = sorted(directory.glob("*.safetensors.index.json")), sorted(directory.glob("*.safetensors"))
    if len(indices) == 1:
        files = [directory / Path(name).name for name in sorted(set(read_json(indices[0])["weight_map"].values()))]
    elif len(files) != 1:
        return weight_files(directory)  # which says what is missing
    return files


def _without_wrappers(names: list[str]) -> dict[str, str]:
    parallel = "module." if all(name.startswith("module.") for name in names) else ""
    return {name.removeprefix(parallel).replace("_orig_mod.", ""): name for name in names}


def _pickled(path: Path) -> StateDictReader:
    if path.suffix in _STATE_DICT_SUFFIXES:
        return StateDictReader(path)
    raise CheckpointError(
        f"{path}: expected a .safetensors file or a state dict ({', '.join(_STATE_DICT_SUFFIXES)}), found "
        f"{path.suffix or 'no suffix'}."
    )


def _load(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:  # torch, pickle and zipfile each raise their own kinds
        raise CheckpointError(
            f"{path}: cannot be read as tensors alone ({' '.join(str(error).split())[:200]}). It is damaged, "
            "older than torch 1.6, or holds objects, which Grow does not load. Save its state dict alone: "
            "torch.save(model.state_dict(), PATH)."
        ) from None


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    for key in _STATE_DICT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)} if content else {}
    if not tensors or len(tensors) < len(content):
        raise CheckpointError(
            f"{path}: expected a state dict, alone or under {', '.join(_STATE_DICT_KEYS)}; found "
            f"{sorted(map(str, content))[:5] if isinstance(content, Mapping) else type(content).__name__}."
        )
    return tensors
