"""A snapshot on its way from a GPU: copied into pinned memory while the GPU and the host work on.

The copies are queued on the GPU's current stream, behind the step that made the weights and before the next that
changes them: nobody has to wait, and nothing can overtake them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from grow.averaging.arithmetic import finite
from grow.averaging.memory import Snapshot, host_buffer


@dataclass(frozen=True, kw_only=True, slots=True)
class Staged:
    """A snapshot that was copied, or still is until `copied` has happened."""

    step: int
    buffers: Snapshot
    finite: Tensor
    copied: torch.cuda.Event


class Staging:
    """At most one snapshot under way."""

    def __init__(self) -> None:
        self._staged: Staged | None = None
        self.spare: Snapshot | None = None
        """Pinned buffers that are free for the next snapshot."""

    def begin(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Queue the copies of a snapshot; the one before must have been finished."""
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
        """The snapshot under way, if any, once it has arrived."""
        staged, self._staged = self._staged, None
        if staged is not None:
            staged.copied.synchronize()
            yield staged
