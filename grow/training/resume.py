"""Puts into the engine what it cannot know by itself: a checkpoint's optimizer state, or exact float32 masters."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from grow.training.checkpoint import Checkpoint
from grow.training.fragments import base_optimizer, owned_fragments
from grow.training.run_average import RunAverage


class Resume:
    """What is to be restored once the engine stands.

    Args:
        checkpoint: to continue from, if any.
        rank: whose random state is restored.
        masters: the model's float32 weights, where the engine makes its masters from bfloat16 copies; they would lose
            16 of their 32 bits.
    """

    def __init__(self, checkpoint: Checkpoint | None, rank: int, masters: PreTrainedModel | None) -> None:
        self._checkpoint, self._rank = checkpoint, rank
        self._masters: dict[str, Tensor] | None = None
        if masters is not None:
            self._masters = {name: value.detach().clone() for name, value in masters.named_parameters()}

    @property
    def is_fresh(self) -> bool:
        """Whether the run starts here."""
        return self._checkpoint is None

    def restore(self, model: PreTrainedModel, optimizer: Any) -> None:
        """Fill this rank's masters, moments and random state."""
        if self.is_fresh and self._masters is None:
            return
        fragments = owned_fragments(model, optimizer, every_rank=True)
        if self._masters is not None:
            for fragment in fragments:
                fragment.values.copy_(self._masters[fragment.name].view(-1)[fragment.start : fragment.stop])
            self._masters = None
        if self._checkpoint is not None:
            self._checkpoint.restore_optimizer(fragments, base_optimizer(optimizer))
            self._checkpoint.restore_rng(self._rank)

    def restore_average(self, average: RunAverage | None) -> None:
        """Fill this rank's part of the average, once the weights are what they were."""
        if self._checkpoint is not None and average is not None:
            self._checkpoint.restore_average(average.average, average.fragments)
