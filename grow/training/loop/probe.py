"""What else is measured on the model while it trains: given to `fit`, asked between two steps."""

from collections.abc import Callable
from typing import Protocol

from grow.training.step.module import PretrainModule


class Probe(Protocol):
    """A measurement at the start of a run, whenever some tokens have passed, and at its end.

    Training goes on as if nobody had asked: random states are put back, and the time is left out of the run's
    seconds. A probe itself leaves weights and gradients alone, and the model in the mode it found it in.
    """

    name: str
    shown: tuple[str, ...]
    """Columns that are shown while the run goes on."""
    every_tokens: int
    of_average: bool
    """Whether averaged weights are measured too, where there are any."""

    def measure(self, module: PretrainModule, heartbeat: Callable[[str], None], averaged: bool) -> dict[str, float]:
        """Columns of one row. All ranks call this together; rank 0's answer is written.

        Args:
            module: what trains, at its clock; `without_grad` computes on its model under any strategy.
            heartbeat: wants to be told, well within strategy.timeout_s, what is being done.
            averaged: the model holds averaged weights for the moment.
        """
