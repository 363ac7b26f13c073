"""Damaged data for experiments on bad batches: random token ids in place of text."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """Sequences of a run that are replaced by random token ids.

    The ids depend only on the seed and the position, so they are the same on any number of ranks, with any micro-batch,
    and in a run that continues.
    """

    positions: range
    """Positions of the sequences in the run's order."""
    vocab_size: int
    seed: int

    def overwrite(self, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Overwrite the damaged ones among these sequences in place.

        Args:
            tokens: Sequences, (B, T + 1).
            positions: Positions of the sequences in the run's order, (B,).
        """
        for sequence, position in zip(tokens, positions.tolist(), strict=True):
            if position in self.positions:
                sequence[:] = np.random.default_rng((self.seed, position)).integers(self.vocab_size, size=len(sequence))
