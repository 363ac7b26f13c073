"""Batches of token shards under Lightning, without workers or state: a run resumes by starting at a later sequence.

Position p of a run reads a window of the training split that its order says (grow/data/run_order.py). Micro-step m of
rank r of W reads the positions start_sequence + (m*W + r) * micro_batch + [0, micro_batch): the global order does not
depend on W and micro_batch.
"""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from grow.common.errors import DataError
from grow.data.damage import Damage
from grow.data.manifest import Shard
from grow.data.mixture import Mixture
from grow.data.order import VALIDATION_SEED, order
from grow.data.run_order import RunOrder, run_order
from grow.data.shards import TokenShards
from grow.data.windows import Windows

POSITIONS_LOOKED_AT = 2**16  # by `reading_order`; beyond them nearly every shard was read
POSITIONS_PER_BLOCK = 4096  # ordered in one call, as each call of the permutation has a fixed cost


class TokenDataModule(L.LightningDataModule):
    """Batches of int64 tokens, (micro_batch, sequence_length + 1): the inputs and, shifted by one, the targets.

    Args:
        shards: Opened token shards.
        sequence_length: Tokens of one sequence that the model reads.
        micro_batch: Sequences of one batch.
        seed: Seed of the order of the sequences.
        val_tokens: Tokens of validation: the first val_tokens // sequence_length windows of a fixed order; 0 for none.
        rank: Rank of this process, in [0, world_size).
        world_size: Number of processes that share the data.
        start_sequence: Sequences that all ranks together have read before.
        damaged_tokens: First and end of a range of the run's tokens; sequences that begin in it are random ids.
        mixture: Shares of the sources; None reads all windows in one order.
        read_ahead: Sequences of this rank that the system is asked to fetch before they are read.

    Raises:
        DataError: a split has fewer tokens than one training window or `val_tokens`.
        ConfigError: the mixture names a source that has no window.
    """

    def __init__(
        self,
        shards: TokenShards,
        *,
        sequence_length: int,
        micro_batch: int,
        seed: int,
        val_tokens: int,
        rank: int = 0,
        world_size: int = 1,
        start_sequence: int = 0,
        damaged_tokens: Sequence[int] | None = None,
        mixture: Mixture | None = None,
        read_ahead: int = 0,
    ) -> None:
        super().__init__()
        self._micro_batch, self._length, self._read_ahead = micro_batch, sequence_length, read_ahead
        self._rank, self._world_size, self._start = rank, world_size, start_sequence
        self._val_windows = val_tokens // sequence_length
        self._damage: Damage | None = None
        if damaged_tokens is not None:
            positions = range(*(-(-token // sequence_length) for token in damaged_tokens))
            self._damage = Damage(positions=positions, vocab_size=shards.vocab_size, seed=seed)
        self._train = shards.windows("train", sequence_length)
        self._validation = shards.windows("validation", sequence_length)
        self.shards = shards
        if len(self._train) == 0:
            raise DataError(
                f"{shards.path}: expected a file of more than sequence_length={sequence_length} tokens to train on, "
                f"found none ({shards.tokens('train')} tokens in all). Shorten data.sequence_length or add text."
            )
        if len(self._validation) < self._val_windows:
            raise DataError(
                f"{shards.path}: expected {val_tokens} tokens in the validation split, found {len(self._validation)} "
                f"windows of {sequence_length} ({shards.tokens('validation')} tokens). "
                f"Set trainer.val_tokens={len(self._validation) * sequence_length} or less."
            )
        self.order = run_order(self._train, seed, mixture)
        """What each position of the run reads."""

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return endless batches in the run's order, from `start_sequence` on. Lightning calls this once."""
        first = self._start + self._rank * self._micro_batch
        stride = self._world_size * self._micro_batch
        batches = TrainBatches(
            self._train,
            self.order,
            self._micro_batch,
            first=first,
            stride=stride,
            read_ahead=self._read_ahead,
            damage=self._damage,
        )
        return _loader(batches)

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Return this rank's validation windows, the same at each call, in batches of at most micro_batch."""
        return _loader(ValidationBatches(self._validation, self._micro_batch, self._val_share()))

    def val_sources(self) -> np.ndarray:
        """Return the source of each of this rank's validation windows, by its index in `shards.sources`: (windows,)."""
        numbers = {source: number for number, source in enumerate(self.shards.sources)}
        shards = self._validation.shards_of(self._val_share()).tolist()
        return np.array([numbers[self._validation.shards[shard].source] for shard in shards], np.int64)

    def read_columns(self, tokens: int) -> dict[str, float]:
        """Return what of each source a run has read after some tokens: its tokens, and its epochs, by metric name."""
        position, columns = tokens // self._length, dict[str, float]()
        read, epochs = self.order.read_before(position).tolist(), self.order.epochs_before(position).tolist()
        for source, sequences, epoch in zip(self.order.sources, read, epochs, strict=True):
            columns |= {f"data/{source}/tokens": sequences * self._length, f"data/{source}/epochs": epoch}
        return columns

    def reading_order(self, sequences: int) -> list[Shard]:
        """Return the shards that all ranks together read, by their first use: those of validation, then of training.

        Args:
            sequences: Sequences that the run still trains on, from `start_sequence` on.
        """
        positions = self._start + np.arange(min(sequences, POSITIONS_LOOKED_AT))
        found = self._train.shards_of(self.order.windows_at(positions))
        used = found[np.sort(np.unique(found, return_index=True)[1])].tolist()
        if sequences > POSITIONS_LOOKED_AT:
            used = [*used, *(n for n, shard in enumerate(self._train.shards) if shard.source in self.order.sources)]
        training = [self._train.shards[index] for index in used]
        return [*self.shards.of_split("validation"), *dict.fromkeys(training)]  # an epoch may read a shard twice

    def _val_share(self) -> np.ndarray:
        chosen = order(np.arange(self._val_windows), max(len(self._validation), 1), VALIDATION_SEED)
        return np.array_split(chosen, self._world_size)[self._rank]


class TrainBatches(IterableDataset[Tensor]):
    """Batches at positions first + k * stride + [0, micro_batch) for k = 0, 1, ..., endlessly."""

    def __init__(
        self,
        windows: Windows,
        order: RunOrder,
        micro_batch: int,
        *,
        first: int,
        stride: int,
        read_ahead: int,
        damage: Damage | None,
    ) -> None:
        self._windows, self._order, self._micro_batch = windows, order, micro_batch
        self._first, self._stride, self._damage = first, stride, damage
        self._batches_ahead = -(-read_ahead // micro_batch)

    def __iter__(self) -> Iterator[Tensor]:
        coming: deque[tuple[np.ndarray, np.ndarray]] = deque()
        for positions, indices in self._places():
            coming.append((positions, indices))
            if self._batches_ahead:
                self._windows.will_take(indices)
            if len(coming) > self._batches_ahead:
                positions, indices = coming.popleft()
                tokens = self._windows.take(indices)
                if self._damage is not None:
                    self._damage.overwrite(tokens, positions)
                yield torch.from_numpy(tokens)

    def _places(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the positions of each batch, and their windows: (micro_batch,) each."""
        steps = max(POSITIONS_PER_BLOCK // self._micro_batch, 1)
        block = self._stride * np.arange(steps)[:, None] + np.arange(self._micro_batch)  # (steps, micro_batch)
        for start in itertools.count(self._first, self._stride * steps):
            places = start + block
            yield from zip(places, self._order.windows_at(places), strict=True)


class ValidationBatches(IterableDataset[Tensor]):
    """The windows of `indices`, micro_batch at a time."""

    def __init__(self, windows: Windows, micro_batch: int, indices: np.ndarray) -> None:
        self._windows, self._micro_batch, self._indices = windows, micro_batch, indices

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self._indices), self._micro_batch):
            yield torch.from_numpy(self._windows.take(self._indices[start : start + self._micro_batch]))


def _loader(batches: IterableDataset[Tensor]) -> DataLoader[Tensor]:
    own = torch.Generator()  # each iterator draws a seed, by default from the generator that dropout uses
    return DataLoader(batches, batch_size=None, num_workers=0, pin_memory=torch.cuda.is_available(), generator=own)
