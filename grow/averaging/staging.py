"""Copies a snapshot from a GPU into pinned memory while GPU and host continue to work.

The copies are queued on the GPU's current stream, after the step that made the weights and before the next one that
changes them, so their order is right without any wait.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from grow.averaging.arithmetic import finite
from grow.averaging.memory import Snapshot, host_buffer


@dataclass(frozen=True, kw_only=True, slots=True)
class Staged:
    """A snapshot whose copy is complete once the event `copied` has happened."""

    step: int
    buffers: Snapshot
    finite: Tensor
    copied: torch.cuda.Event


class Staging:
    """Holds at most one snapshot whose copy is in progress."""

    def __init__(self) -> None:
        self._staged: Staged | None = None
        self.spare: Snapshot | None = None
        """Pinned buffers that the next snapshot can reuse."""

    def begin(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Queue the copies of a snapshot; call `finish` for the previous one first."""
        buffers, self.spare = self.spare, None
        buffers = buffers or {name: host_buffer(tensor, pinned=True) for name, tensor in weights.items()}
        for name, tensor in weights.items():
            buffers[name].copy_(tensor.detach(), non_blocking=True)
        verdict = torch.empty((), dtype=torch.bool, pin_memory=True)
        verdict.copy_(finite(weights.values()), non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        self._staged = Staged(step=step, buffers=buffers, finite=verdict, copied=copied)

    def finish(self) -> Iterator[Staged]:
        """Wait for the copy in progress and yield its snapshot, if there is one."""
        staged, self._staged = self._staged, None
        if staged is not None:
            staged.copied.synchronize()
            yield staged
