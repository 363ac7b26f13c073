"""Preemption: a signal from the scheduler sets a flag, and between two steps all ranks agree that it is set.

SIGTERM, SIGUSR1 and SIGUSR2 mean the same, as schedulers differ in which they send. The handler only sets the flag.
"""

import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Preemption:
    """Handles the signals from `start` to `stop`.

    The ranks' flags are reduced in the background during a step, so that no step waits for the reduction.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._previous: dict[int, Any] = {}
        self._asked = torch.zeros(1)
        self._work: dist.Work | None = None
        self._group: dist.ProcessGroup | None = None

    def start(self) -> None:
        """Replace the handlers of the signals; every rank must call this."""
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        if dist.is_initialized():
            self._group = dist.new_group(backend="gloo")  # reduces on the host, whatever the devices are

    def stop(self) -> None:
        """Restore the former handlers."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous.clear()

    def agreed(self) -> bool:
        """Return whether any rank had got a signal by the end of the step before; a single process answers for now."""
        if self._group is None:
            return self.signal_name is not None
        stop = self._work is not None and self._answer()
        self._asked = torch.tensor([float(self.signal_name is not None)])
        self._work = dist.all_reduce(self._asked, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return stop

    def _answer(self) -> bool:
        assert self._work is not None
        self._work.wait()
        return bool(self._asked.item())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
