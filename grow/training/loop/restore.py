"""Puts into the engine what it cannot know by itself: saved or grown optimizer state, and exact float32 masters."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from grow.training.checkpoints.checkpoint_reader import restore_average, restore_moments
from grow.training.checkpoints.fragments import base_optimizer, owned_fragments
from grow.training.checkpoints.run_average import RunAverage
from grow.training.start import Start


class Resume:
    """State to restore once the engine stands.

    Args:
        start: Start of the run: a checkpoint, a growth with moments and a window perhaps, or noise.
        rank: Rank whose random state is restored.
        keep_masters: Whether the engine makes its masters from bfloat16 copies, which lose 16 of the 32 bits.
    """

    def __init__(self, start: Start, rank: int, *, keep_masters: bool) -> None:
        self._checkpoint, self._grown, self._rank = start.checkpoint, start.grown, rank
        self._masters: dict[str, Tensor] | None = None
        if keep_masters:
            self._masters = {name: value.detach().clone() for name, value in start.model.named_parameters()}

    @property
    def is_fresh(self) -> bool:
        """Whether the run starts here."""
        return self._checkpoint is None

    def restore(self, model: PreTrainedModel, optimizer: Any, average: RunAverage | None) -> None:
        """Fill this rank's masters, moments, random state and part of the average; called once, before any step."""
        grown_updates = 0 if self._grown is None else self._grown.updates
        if self._checkpoint is not None or self._masters is not None or grown_updates:
            self._fill(model, optimizer)
        if average is not None:
            self._fill_average(average)

    def _fill(self, model: PreTrainedModel, optimizer: Any) -> None:
        fragments = owned_fragments(model, optimizer, every_rank=True)
        if self._masters is not None:
            for fragment in fragments:
                fragment.values.copy_(self._masters[fragment.name].view(-1)[fragment.start : fragment.stop])
            self._masters = None
        if self._checkpoint is not None:
            self._checkpoint.restore_optimizer(fragments, base_optimizer(optimizer))
            self._checkpoint.restore_rng(self._rank)
        elif self._grown is not None and self._grown.directory is not None and self._grown.updates:
            restore_moments(self._grown.directory, fragments, base_optimizer(optimizer), self._grown.updates)

    def _fill_average(self, average: RunAverage) -> None:
        if self._checkpoint is not None:
            self._checkpoint.restore_average(average.average, average.fragments)
        elif self._grown is not None and self._grown.directory is not None and self._grown.window is not None:
            restore_average(self._grown.directory, self._grown.window, average.average, average.fragments)
