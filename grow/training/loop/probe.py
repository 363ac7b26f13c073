"""The interface of a probe: a further measurement on the model during training, passed to `fit`."""

from collections.abc import Callable
from typing import Protocol

from grow.training.step.module import PretrainModule


class Probe(Protocol):
    """A measurement at the start of a run, after every `every_tokens` tokens, and at the end.

    A probe does not influence training: the loop restores random states and leaves the time out of the run's seconds.
    The probe itself must not change weights and gradients, and must leave the model in the mode it found it in.
    """

    name: str
    """Name on the display."""
    shown: tuple[str, ...]
    """Columns that are shown on the display."""
    every_tokens: int
    """Tokens between two measurements."""
    of_average: bool
    """Whether averaged weights are measured as well, where there are any."""

    def measure(self, module: PretrainModule, heartbeat: Callable[[str], None], averaged: bool) -> dict[str, float]:
        """Return the columns of one row. All ranks call this together; the columns of rank 0 are written.

        Args:
            module: Module that trains; its `without_grad` computes on the model under any strategy.
            heartbeat: Function that must be called more often than every strategy.timeout_s seconds, with the name of
                the work in progress.
            averaged: Whether the model holds averaged weights at the moment.
        """
