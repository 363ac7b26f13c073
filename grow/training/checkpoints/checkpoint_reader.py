"""Checkpoints of a run: their files, and how they are read back, after every digest was checked.

checkpoints/step-00000500/
    config.json, model.safetensors       a stock model directory, float32: it can be loaded, averaged or grown
    optimizer-00000-of-00002.safetensors one file for each rank: PARAMETER/exp_avg and PARAMETER/exp_avg_sq, flat; the
                                         header names the element of the parameter that each tensor starts at
    average-00000-of-00002.safetensors   where weights are averaged: snapshot-STEP/PARAMETER, flat in the same way
    rng.safetensors                      state of the random generators of every rank
    state.json                           tokens, seconds, sequences read, length of metrics.jsonl, ...
    COMPLETE.json                        digest of every file above; written last. Other files are not read

A parameter's moments are addressed by element, not by rank, so a run can continue under any strategy on any number of
ranks. Nothing is pickled, so reading a checkpoint never runs code from it.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from grow.averaging.average import Average
from grow.common.checkpoint_names import checkpoint_directories
from grow.common.errors import CheckpointError
from grow.common.provenance import COMPLETE_FILE
from grow.distributed.processes import from_first
from grow.families.tensor_file import TensorFile
from grow.training.checkpoints.fragments import Fragment
from grow.training.checkpoints.integrity import AVERAGE_FILES, difference, digests, window_files
from grow.training.checkpoints.run_state import RunState, read_state

RNG_FILE = "rng.safetensors"
OPTIMIZER_FILES = "optimizer-*.safetensors"
STARTS = "starts"  # key of a shard's header: the first element of each parameter's fragment


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One complete checkpoint."""

    path: Path

    @property
    def state(self) -> RunState:
        """Read state.json."""
        return read_state(self.path)

    def restore_optimizer(self, fragments: Sequence[Fragment], optimizer: Optimizer) -> None:
        """Fill this rank's fragments with the saved moments of their elements, and set the counts of updates.

        Args:
            fragments: Fragments whose moments are filled.
            optimizer: Optimizer whose counts of updates are set.

        Raises:
            CheckpointError: some elements were never saved.
        """
        state = self.state
        restore_moments(self.path, fragments, optimizer, state.updates)
        for group, updates in zip(optimizer.param_groups, state.updates_of_groups, strict=False):
            for parameter in group["params"]:
                optimizer.state[parameter]["step"].fill_(updates)

    def restore_average(self, average: Average, fragments: Sequence[Fragment]) -> None:
        """Fill an average with the saved snapshots of this rank's elements; without saved ones it starts empty.

        Without them are runs that averaged nothing, and permanent checkpoints that dropped their window.

        Raises:
            CheckpointError: another kind of average was saved, or of other weights.
        """
        if self.state.average is not None and window_files(self.path):
            restore_average(self.path, self.state.average, average, fragments)

    def restore_rng(self, rank: int) -> None:
        """Restore this rank's random generators; a rank that did not exist when this was saved keeps its own state."""
        saved = TensorFile(self.path / RNG_FILE)
        if f"{rank}.cpu" in saved.names:
            torch.set_rng_state(saved.read(f"{rank}.cpu"))
        if f"{rank}.cuda" in saved.names and torch.cuda.is_available():
            torch.cuda.set_rng_state(saved.read(f"{rank}.cuda"))


def restore_moments(directory: Path, fragments: Sequence[Fragment], optimizer: Optimizer, updates: int) -> None:
    """Fill fragments with their elements' moments from a directory's optimizer files.

    Raises:
        CheckpointError: the files do not hold all elements.
    """
    moments = SavedFragments(directory, OPTIMIZER_FILES)
    for fragment in fragments:
        for moment, view in fragment.moments.items():
            moments.read(f"{fragment.name}/{moment}", fragment.start, view)
    for state in optimizer.state.values():
        state["step"].fill_(updates)


def restore_average(directory: Path, state: Mapping[str, Any], average: Average, fragments: Sequence[Fragment]) -> None:
    """Fill an average with the fragments' elements from a directory's average files.

    Raises:
        CheckpointError: the files do not hold all elements, or are of another kind of average.
    """
    saved, owned = SavedFragments(directory, AVERAGE_FILES), {fragment.name: fragment for fragment in fragments}

    def read(key: str) -> Tensor:
        fragment = owned[key.partition("/")[2]]
        part = saved.empty(key, fragment.values.numel())
        saved.read(key, fragment.start, part)
        return part

    average.load(state, owned, read)


class SavedFragments:
    """Reads any range of elements of a parameter's moments or snapshots out of all ranks' files.

    Args:
        directory: Directory of a checkpoint.
        files: Pattern of the files' names. Their tensors are named PARAMETER/KIND or KIND/PARAMETER, and the header
            says at which element of the parameter each of them starts.
    """

    def __init__(self, directory: Path, files: str) -> None:
        self._directory = directory
        self._pieces: dict[str, list[tuple[int, TensorFile]]] = defaultdict(list)
        self._float64: set[str] = set()
        own = digests(directory / COMPLETE_FILE) if (directory / COMPLETE_FILE).exists() else None
        for path in sorted(directory.glob(files)):
            if own is not None and path.name not in own:
                continue
            file = TensorFile(path)
            starts = json.loads(file.metadata[STARTS])
            for key in file.names:
                name = next(part for part in (key.partition("/")[2], key.rpartition("/")[0]) if part in starts)
                self._pieces[key].append((starts[name], file))
                if file.info(key).dtype == torch.float64:
                    self._float64.add(key)

    def empty(self, key: str, elements: int) -> Tensor:
        """Return an uninitialized flat tensor of the dtype of a saved one: (elements,)."""
        return torch.empty(elements, dtype=torch.float64 if key in self._float64 else torch.float32)

    def whole(self, key: str) -> Tensor:
        """Read a whole tensor, flat.

        Raises:
            CheckpointError: elements before the last saved one are missing, or none was saved.
        """
        length = 0
        for start, file in self._pieces.get(key, ()):
            length = max(length, start + file.info(key).shape[0])
        if length == 0:
            raise CheckpointError(f"{self._directory}: expected {key} in its shards, found none of it.")
        out = self.empty(key, length)
        self.read(key, 0, out)
        return out

    def read(self, key: str, start: int, out: Tensor) -> None:
        """Fill a flat tensor of n elements with the saved elements [start, start + n).

        Raises:
            CheckpointError: the files do not hold all of them.
        """
        stop, filled = start + out.numel(), 0
        for piece_start, file in self._pieces.get(key, ()):
            first, last = max(start, piece_start), min(stop, piece_start + file.info(key).shape[0])
            if first < last:
                piece = file.read_flat(key, slice(first - piece_start, last - piece_start))
                out[first - start : last - start].copy_(piece)
                filled += last - first
        if filled != out.numel():
            raise CheckpointError(
                f"{self._directory}: expected elements {start} to {stop} of {key}, found {filled} of {out.numel()}. "
                "The checkpoint is of another model."
            )


def newest_checkpoint(directory: Path, *, together: bool = False) -> tuple[Checkpoint | None, list[str]]:
    """Find the newest checkpoint whose files match their digests.

    Args:
        directory: Directory of a run's checkpoints.
        together: Whether all ranks call this, and each reads a share of the files.

    Returns:
        The checkpoint, or None, and a message about each newer, damaged one.

    Raises:
        CheckpointError: another version of Grow wrote the newest one.
    """
    skipped: list[str] = []
    found = checkpoint_directories(directory)
    for path in reversed(from_first(found) if together else found):
        wrong = difference(path, together=together)
        if wrong is None:
            return Checkpoint(path), skipped
        skipped.append(f"Skipped {path}: {wrong}.")
    return None, skipped


def require_complete(path: Path) -> Checkpoint:
    """Return the checkpoint in a directory.

    Raises:
        CheckpointError: the directory is not a checkpoint, or its files do not match their digests.
    """
    wrong = difference(path)
    if wrong is None:
        return Checkpoint(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such directory. Give a checkpoint such as RUN/checkpoints/step-00000500.")
    raise CheckpointError(
        f"{path}: expected a complete checkpoint such as RUN/checkpoints/step-00000500, but {wrong}. Choose another."
    )
