"""The storage of an average's snapshots: a window of them in memory or on disk, or one running total."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from grow.averaging.arithmetic import chunks, combine, fold
from grow.averaging.cadence import AveragingPlan
from grow.common.temporary import share
from grow.families.weights import WeightReader

Snapshot = dict[str, Tensor]
Items = Iterable[tuple[str, Tensor]]


class SnapshotMemory(ABC):
    """Storage of the snapshots that an average needs."""

    steps: list[int]
    """Steps of the stored snapshots, oldest first."""
    count: int
    """Snapshots in the average."""

    @abstractmethod
    def put(self, step: int, items: Items) -> None:
        """Store a copy of a snapshot."""

    def adopt(self, step: int, buffers: Snapshot) -> Snapshot | None:
        """Store a snapshot by taking over its buffers, and return buffers that became free, if any."""
        self.put(step, buffers.items())
        return buffers

    @abstractmethod
    def combined(self, name: str, chunk: slice) -> Tensor:
        """Return the average of some elements of a weight: float64, (stop - start,)."""

    @abstractmethod
    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Return all stored tensors, under keys PREFIX/NAME."""

    @abstractmethod
    def load(self, steps: list[int], count: int, items: Callable[[str], Items]) -> None:
        """Replace the contents by saved ones; `items` returns the weights that were saved under a prefix."""

    @abstractmethod
    def clear(self) -> None:
        """Drop all snapshots."""


class Window(SnapshotMemory):
    """The k latest snapshots; a further one replaces the oldest."""

    def __init__(self, plan: AveragingPlan) -> None:
        assert plan.k is not None
        self._k, self._plan = plan.k, plan

    @abstractmethod
    def read(self, step: int, name: str, chunk: slice) -> Tensor:
        """Read some elements of one snapshot: (stop - start,)."""

    @abstractmethod
    def snapshot(self, step: int) -> Items:
        """Return the weights of one snapshot."""

    @property
    def count(self) -> int:  # type: ignore[override]
        return len(self.steps)

    def combined(self, name: str, chunk: slice) -> Tensor:
        return combine((self.read(step, name, chunk) for step in self.steps), self._plan.weighting(self.count))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for step in self.steps:
            for name, tensor in self.snapshot(step):
                yield f"snapshot-{step}/{name}", tensor

    def load(self, steps: list[int], count: int, items: Callable[[str], Items]) -> None:
        self.clear()
        for step in steps[-self._k :]:
            self.put(step, items(f"snapshot-{step}"))


class HostWindow(Window):
    """Snapshots in memory, in k sets of buffers that are allocated once and overwritten."""

    def __init__(self, plan: AveragingPlan) -> None:
        super().__init__(plan)
        self._snapshots: dict[int, Snapshot] = {}

    @property
    def steps(self) -> list[int]:  # type: ignore[override]
        return list(self._snapshots)

    def put(self, step: int, items: Items) -> None:
        buffers = self._freed() or {}
        for name, tensor in items:
            if name not in buffers:
                buffers[name] = host_buffer(tensor)
            buffers[name].copy_(tensor.detach())
        self._snapshots[step] = buffers

    def adopt(self, step: int, buffers: Snapshot) -> Snapshot | None:
        freed = self._freed()
        self._snapshots[step] = buffers
        return freed

    def read(self, step: int, name: str, chunk: slice) -> Tensor:
        return self._snapshots[step][name].view(-1)[chunk]

    def snapshot(self, step: int) -> Items:
        return self._snapshots[step].items()

    def clear(self) -> None:
        self._snapshots.clear()

    def _freed(self) -> Snapshot | None:
        """Remove the oldest snapshot and return its buffers, once there are k snapshots."""
        return self._snapshots.pop(self.steps[0]) if self.count == self._k else None


class DiskWindow(Window):
    """Snapshots as safetensors files, in a directory private to this process; memory holds none of them.

    A run that continues restores its window from its checkpoint, which may be older than the files: snapshots found in
    the directory at the start are removed.
    """

    def __init__(self, plan: AveragingPlan, directory: Path) -> None:
        super().__init__(plan)
        self._directory = directory
        self._readers: dict[int, WeightReader] = {}
        self.clear()

    @property
    def steps(self) -> list[int]:  # type: ignore[override]
        return list(self._readers)

    def put(self, step: int, items: Items) -> None:
        path = self._path(step)
        partial = path.with_suffix(".partial")
        save_file({name: tensor.detach().to("cpu", stored_dtype(tensor)) for name, tensor in items}, partial)
        share(partial)
        partial.replace(path)
        if self.count == self._k:
            oldest = self.steps[0]
            del self._readers[oldest]
            self._path(oldest).unlink()
        self._readers[step] = WeightReader(self._directory, [path])

    def read(self, step: int, name: str, chunk: slice) -> Tensor:
        return self._readers[step].read_flat(name, chunk)

    def snapshot(self, step: int) -> Items:
        reader = self._readers[step]
        return ((name, reader.read(name)) for name in reader.names)

    def clear(self) -> None:
        self._readers.clear()
        self._directory.mkdir(parents=True, exist_ok=True)
        for left in self._directory.glob("snapshot-*"):
            left.unlink()

    def _path(self, step: int) -> Path:
        return self._directory / f"snapshot-{step:08}.safetensors"


class RunningTotal(SnapshotMemory):
    """One float64 total for any number of snapshots: an exponential average, or the sum of all.

    The total adds up snapshots oldest first, in the order of the offline average, so that the two agree bit for bit.
    """

    def __init__(self, plan: AveragingPlan) -> None:
        weighting = plan.weighting(2)
        self._keep, self._take = weighting.keep, weighting.takes[1]
        self._totals: Snapshot = {}
        self.steps, self.count = [], 0

    def put(self, step: int, items: Items) -> None:
        for name, tensor in items:
            if self.count == 0:
                self._totals[name] = tensor.detach().to("cpu", torch.float64, copy=True)
                continue
            total, snapshot = self._totals[name].view(-1), tensor.detach().reshape(-1)
            for chunk in chunks(total.numel()):
                fold(total[chunk], snapshot[chunk], self._keep, self._take)
        self.count += 1

    def combined(self, name: str, chunk: slice) -> Tensor:
        return self._totals[name].view(-1)[chunk] / (self.count if self._keep == 1 else 1)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        return ((f"total/{name}", tensor) for name, tensor in self._totals.items())

    def load(self, steps: list[int], count: int, items: Callable[[str], Items]) -> None:
        self.clear()
        if count:
            self.put(0, items("total"))
        self.count = count

    def clear(self) -> None:
        self._totals.clear()
        self.count = 0


def host_buffer(tensor: Tensor, *, pinned: bool = False) -> Tensor:
    """Allocate host memory for a snapshot of a tensor."""
    return torch.empty(tensor.shape, dtype=stored_dtype(tensor), pin_memory=pinned)


def stored_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of a snapshot: float32, or float64 where the weights are."""
    return torch.promote_types(tensor.dtype, torch.float32)
