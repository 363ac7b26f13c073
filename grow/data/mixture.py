"""Mixtures: which source each position of a run reads, in shares that are kept to within a sequence.

Weights become whole parts of 2^32. Positions form blocks of 4,096. Block b of a stage, counted from the stage's start,
holds floor((b + 1) 4096 w) - floor(b 4096 w) sequences of a source of weight w, and the heaviest source takes what is
left; `order` shuffles the places in a block. So the counts at the end of a block are off by less than one, the
heaviest's by less than the number of sources. A stage begins with the next block, and a source goes on there with the
sequence that is its next.

All of it is a function of the position: nothing is stored, and a run continues by a seek. S number of sources.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grow.data.order import order

BLOCK = 4096
_WHOLE = 2**32
_ENDLESS = 2**40  # blocks; more than any run reads


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """Shares of the sources in each stage of a run."""

    sources: tuple[str, ...]
    """Names, sorted."""
    starts: tuple[int, ...]
    """First block of each stage, ascending from 0."""
    parts: tuple[tuple[int, ...], ...]
    """Parts of 2^32 of each source in each stage; those of a stage add up to 2^32."""

    @classmethod
    def of(
        cls, weights: Mapping[str, float] | None, stages: Sequence[Mapping[str, Any]] | None, sequence_length: int
    ) -> "Mixture | None":
        """Return the mixture that a configuration asks for; None where it asks for none.

        Args:
            weights: Value of data.mixture: source -> weight, for the whole run.
            stages: Value of data.stages: `from_tokens` and `weights` of each, in its order.
            sequence_length: Tokens of one sequence.
        """
        if weights is not None:
            stages = [{"from_tokens": 0, "weights": weights}]
        if stages is None:
            return None
        sources = tuple(sorted({source for stage in stages for source in stage["weights"]}))
        # Of stages that begin in the same block, the last one holds.
        by_start = {-(-stage["from_tokens"] // (sequence_length * BLOCK)): stage["weights"] for stage in stages}
        parts = tuple(_parts([Fraction(weights.get(source, 0)) for source in sources]) for weights in by_start.values())
        return cls(sources=sources, starts=tuple(by_start), parts=parts)

    def begun(self, position: int) -> list[tuple[int, dict[str, int]]]:
        """Return the stages of the blocks that a run has begun at a position: first block, and the sources' parts."""
        return [
            (start, {source: part for source, part in zip(self.sources, parts, strict=True) if part})
            for start, parts in zip(self.starts, self.parts, strict=True)
            if start * BLOCK < position
        ]

    def places(self, positions: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return what a run reads at each position.

        Args:
            positions: Positions, (P,).
            seed: Seed of the run.

        Returns:
            The source, as an index into `sources`, and which of its sequences: 0 for the first that is read; (P,) each.
        """
        blocks, of_block = np.unique(positions // BLOCK, return_inverse=True)
        before = self._totals(blocks)  # (blocks, S)
        ends = np.cumsum(self._totals(blocks + 1) - before, axis=1)
        slots = order(positions, BLOCK, seed_of("blocks of the mixture", seed))
        found = (slots[:, None] >= ends[of_block]).sum(axis=1)
        firsts = np.pad(ends, ((0, 0), (1, 0)))[of_block, found]
        return found, before[of_block, found] + slots - firsts

    def read_before(self, position: int, seed: int) -> NDArray[np.int64]:
        """Return the sequences of each source at the positions before one: (S,)."""
        block = position // BLOCK
        rest, _ = self.places(np.arange(block * BLOCK, position), seed)
        return self._totals(np.array([block]))[0] + np.bincount(rest, minlength=len(self.sources))

    def _totals(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sequences of each source in all blocks before these: (len(blocks), S)."""
        found = np.zeros((len(blocks), len(self.sources)), np.int64)
        for start, end, parts in zip(self.starts, (*self.starts[1:], _ENDLESS), self.parts, strict=True):
            inside = np.clip(blocks - start, 0, end - start)[:, None]
            heaviest = parts.index(max(parts))
            lighter = np.array([0 if number == heaviest else part for number, part in enumerate(parts)])
            counts = inside * lighter // (_WHOLE // BLOCK)
            counts[:, heaviest] = inside[:, 0] * BLOCK - counts.sum(axis=1)
            found += counts
        return found


def seed_of(name: str, seed: int) -> int:
    """Return a seed of its own for each name, as of a source; sources that come or go do not change it."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "little")


def _parts(weights: list[Fraction]) -> tuple[int, ...]:
    """Return weights as whole parts of 2^32; the heaviest takes what rounding leaves."""
    parts = [int(weight * _WHOLE / sum(weights)) for weight in weights]
    parts[weights.index(max(weights))] += _WHOLE - sum(parts)
    return tuple(parts)
