"""What else is measured on the model while it trains: given to `fit`, asked between two steps."""

from collections.abc import Callable
from typing import Protocol

from transformers import PreTrainedModel


class Probe(Protocol):
    """A measurement at the start of a run, whenever some tokens have passed, and at its end.

    Training goes on as if nobody had asked: random states are put back, and the time is left out of its speed. A
    probe itself leaves weights and gradients alone, and the model in the mode it found it in.
    """

    @property
    def every_tokens(self) -> int:
        """How often."""

    def measure(self, model: PreTrainedModel, *, averaged: bool, hear: Callable[[str], None]) -> dict[str, float]:
        """Columns of one row. All ranks call this together and get the same.

        Args:
            model: as it trains, so under the strategy of the run.
            averaged: it holds averaged weights for the moment.
            hear: wants to be told, well within strategy.timeout_s, what is being done.
        """
