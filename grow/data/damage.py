"""Damages a stretch of a run's data, for experiments on what a bad batch does: random ids in place of text."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """Which sequences of a run are not what the shards hold.

    What they hold instead depends on the seed and the sequence alone, so that it is the same for any ranks, any
    micro-batch, and a run that continues.
    """

    positions: range
    """In the run's order."""
    vocab_size: int
    seed: int

    def do(self, tokens: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Overwrite the damaged ones among some sequences, (B, T + 1), at these positions, (B,)."""
        for sequence, position in zip(tokens, positions.tolist(), strict=True):
            if position in self.positions:
                sequence[:] = np.random.default_rng((self.seed, position)).integers(self.vocab_size, size=len(sequence))
