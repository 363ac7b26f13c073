"""Checkpoints to average: runs, model directories, hub revisions, and weight files of any kind of model.

Pickled state dicts are read only where the user names the file itself.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from grow.common.checkpoint_names import checkpoint_directories
from grow.common.contained import contained_file
from grow.common.errors import CheckpointError
from grow.common.provenance import COMPLETE_FILE, RUN_FILE
from grow.families.source_directory import find_source
from grow.families.state_dict_file import SUFFIXES, StateDictReader
from grow.families.tensor_file import TensorInfo
from grow.families.weights import INDEX_FILE, SINGLE_FILE, WeightReader, indexed_files, weight_files

_STEP = re.compile(r"(?:step|checkpoint|epoch|iter)[-_]?(\d+)(?!.*\d)", re.IGNORECASE)


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
        return [_of_file(entry, path)]
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


def open_model(entry: str) -> Source:
    """Open one model; a run stands for its final model.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = Path(entry)
    return _of_file(entry, path) if path.is_file() else _from_directory(entry, find_source(entry), path.name)


def _of_file(label: str, path: Path) -> Source:
    reader = WeightReader(path.parent, [path]) if path.suffix == ".safetensors" else _pickled(path)
    return _source(label, reader, None, path.stem)


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
        return indexed_files(directory, indices[0].name)
    if len(files) == 1:
        return [contained_file(directory, files[0].name)]
    return weight_files(directory)  # which says what is missing


def _without_wrappers(names: list[str]) -> dict[str, str]:
    parallel = "module." if all(name.startswith("module.") for name in names) else ""
    return {name.removeprefix(parallel).replace("_orig_mod.", ""): name for name in names}


def _pickled(path: Path) -> StateDictReader:
    if path.suffix in SUFFIXES:
        return StateDictReader(path)
    raise CheckpointError(
        f"{path}: expected a .safetensors file or a state dict ({', '.join(SUFFIXES)}), found "
        f"{path.suffix or 'no suffix'}."
    )
