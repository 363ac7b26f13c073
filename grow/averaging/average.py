"""The averaging core: take snapshots, return their mean, save and load. Independent of trainer and run files.

    average = new_average(plan, directory)
    if plan.due(step):
        average.push(step, weights)         # name -> tensor: parameters, or the flat fragments that one rank owns
    if average.ready:
        with averaged(weights, average.mean()):
            ...

Averages are element-wise under the names and shapes that were pushed, so a rank averages its fragments without
communication. Snapshots are copies; live weights are only read.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grow.averaging.arithmetic import chunks, finite, rounded
from grow.averaging.cadence import AveragingPlan
from grow.averaging.memory import DiskWindow, HostWindow, Items, RunningTotal, SnapshotMemory, stored_dtype
from grow.averaging.staging import Staging
from grow.common.errors import CheckpointError
from grow.families.tensor_file import TensorInfo


class Average:
    """An average of the snapshots that were pushed.

    A snapshot on a GPU is copied in the background; the next push, and every method that reads the average, waits for
    the copy. A snapshot with a value that is not finite is dropped and counted in `skipped`.

    Args:
        plan: Steps at which snapshots are due, and their weighting.
        memory: Storage of the snapshots.
        agree: Reduces "this snapshot is finite" over the ranks by a logical and, where each rank owns other fragments.
            Called once for each snapshot.
    """

    def __init__(self, plan: AveragingPlan, memory: SnapshotMemory, agree: Callable[[bool], bool] = bool) -> None:
        self.plan = plan
        self._memory, self._agree = memory, agree
        self._staging = Staging()
        self._tensors: dict[str, TensorInfo] = {}
        self._last_step = self._skipped = 0

    def push(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Take a snapshot of the weights after `step`; they may change as soon as this returns."""
        self._settle()
        if step <= self._last_step:
            raise ValueError(f"expected a snapshot of a step after {self._last_step}, got one of step {step}")
        found = {
            name: TensorInfo(name=name, shape=tuple(tensor.shape), dtype=stored_dtype(tensor))
            for name, tensor in weights.items()
        }
        if self._tensors and found != self._tensors:
            raise ValueError(f"step {step}: expected the names, shapes and dtypes of the snapshots before")
        self._tensors, self._last_step = found, step
        if any(tensor.is_cuda for tensor in weights.values()):
            self._staging.begin(step, weights)
        elif self._agree(bool(finite(weights.values()))):
            self._memory.put(step, weights.items())
        else:
            self._skipped += 1

    @property
    def ready(self) -> bool:
        """Whether there is an average: at least `min_snapshots` were taken."""
        return self.count >= self.plan.min_snapshots

    @property
    def count(self) -> int:
        """Number of snapshots in the average."""
        self._settle()
        return self._memory.count

    @property
    def steps(self) -> list[int]:
        """Steps of the stored snapshots, oldest first; a running average stores none."""
        self._settle()
        return self._memory.steps

    @property
    def skipped(self) -> int:
        """Number of snapshots that were dropped because a value was not finite."""
        self._settle()
        return self._skipped

    def mean(self) -> dict[str, Tensor]:
        """Return the average in new float32 tensors on the host (float64 where the weights are), rounded once.

        Raises:
            ValueError: there is no average yet; see `ready`.
        """
        return dict(self.means())

    def means(self) -> Iterator[tuple[str, Tensor]]:
        """Yield `mean`, one tensor at a time."""
        if not self.ready:
            raise ValueError(f"expected at least {self.plan.min_snapshots} snapshots, found {self.count}")
        for info in self._tensors.values():
            out = torch.empty(info.shape, dtype=info.dtype)
            for chunk in chunks(out.numel()):
                out.view(-1)[chunk] = rounded(self._memory.combined(info.name, chunk), info.dtype)
            yield info.name, out

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores besides `tensors`, as JSON values."""
        return {
            "kind": self.plan.settings.kind,
            "count": self.count,
            "steps": self.steps,
            "last_step": self._last_step,
            "skipped": self._skipped,
            "float64": [info.name for info in self._tensors.values() if info.dtype == torch.float64],
        }

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Return a checkpoint's tensors one at a time: `snapshot-STEP/NAME`, or `total/NAME` of a running average.

        The tensors are the average's own: write them before the next push.
        """
        self._settle()
        return self._memory.tensors()

    def load(self, state: Mapping[str, Any], names: Iterable[str], read: Callable[[str], Tensor]) -> None:
        """Restore a saved average, bit for bit.

        A smaller window keeps the newest snapshots, a larger one fills up over time.

        Args:
            state: Saved value of `state`.
            names: Names of the weights.
            read: Function from a key of `tensors` to its tensor, or to the part of it that this rank owns now.

        Raises:
            CheckpointError: another kind of average was saved.
        """
        if state["kind"] != self.plan.settings.kind:
            raise CheckpointError(
                f"expected the state of averaging.kind={self.plan.settings.kind}, found one of {state['kind']}. "
                "Continue with that kind, or start another run."
            )
        self.reset()
        wanted = {name: torch.float64 if name in state["float64"] else torch.float32 for name in names}
        self._memory.load(state["steps"], state["count"], lambda prefix: self._read(prefix, wanted, read))
        self._last_step, self._skipped = state["last_step"], state["skipped"]

    def reset(self) -> None:
        """Drop all snapshots; the next ones may have other shapes."""
        self._settle()
        self._tensors = {}
        self._memory.clear()

    def _read(self, prefix: str, dtypes: Mapping[str, torch.dtype], read: Callable[[str], Tensor]) -> Items:
        for name, dtype in dtypes.items():
            tensor = read(f"{prefix}/{name}")
            self._tensors[name] = TensorInfo(name=name, shape=tuple(tensor.shape), dtype=dtype)
            yield name, tensor

    def _settle(self) -> None:
        """Wait for a snapshot that is still being copied from a GPU, then store it, or drop it if it is not finite."""
        for staged in self._staging.finish():
            if self._agree(bool(staged.finite)):
                self._staging.spare = self._memory.adopt(staged.step, staged.buffers)
            else:
                self._staging.spare = staged.buffers
                self._skipped += 1


def new_average(plan: AveragingPlan, directory: Path | None = None, agree: Callable[[bool], bool] = bool) -> Average:
    """Build the average that a plan describes, without a snapshot.

    Args:
        plan: Averaging plan of the run.
        directory: Directory private to this process, for the snapshots of averaging.storage=disk.
        agree: Reduces over the ranks by a logical and; see `Average`.
    """
    if plan.k is None:
        return Average(plan, RunningTotal(plan), agree)
    if plan.settings.storage == "host":
        return Average(plan, HostWindow(plan), agree)
    if directory is None:
        raise ValueError("expected a directory for the snapshots of averaging.storage=disk")
    return Average(plan, DiskWindow(plan, directory), agree)
