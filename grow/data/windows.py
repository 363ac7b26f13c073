"""Windows: the sequences of equal length into which the tokens of a split are cut."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grow.data.manifest import Shard
from grow.data.shard_files import ShardFiles


class Windows:
    """All sequences of some shards: window i of a shard holds its tokens [i*T, i*T + T]; its last is the next's first.

    Windows never cross shards; the remaining tokens at the end of a shard are dropped. The windows' numbers run on from
    shard to shard. Only their counts are in memory; tokens are read when they are taken.

    Args:
        shards: Shards to cut, in this order; one that an epoch repeats counts as often.
        files: Reads the files.
        root: Directory that the shards' paths are relative to.
        dtype: Type of a token on disk.
        sequence_length: Tokens of a window that a model reads, T.
    """

    def __init__(
        self, shards: Sequence[Shard], *, files: ShardFiles, root: Path, dtype: np.dtype[Any], sequence_length: int
    ) -> None:
        self._files, self._dtype, self._length = files, dtype, sequence_length
        repeated = [shard for shard in shards for _ in range(shard.repeats)]
        counts = np.array([max(shard.tokens - 1, 0) // sequence_length for shard in repeated], np.int64)
        self.shards = [shard for shard, count in zip(repeated, counts.tolist(), strict=True) if count]
        """Shards that have a window, in the order of the windows."""
        self.counts = counts[counts > 0]
        """Windows of each of these shards."""
        self._ends = np.cumsum(self.counts)
        self._paths = [f"{root}/{shard.file}" for shard in self.shards]
        first_tokens = np.array([shard.start for shard in self.shards], np.int64)
        self._window_bytes = sequence_length * dtype.itemsize
        self._origins = first_tokens * dtype.itemsize - (self._ends - self.counts) * self._window_bytes
        """First byte that window 0 would have in each shard's file."""

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.shards else 0

    def shards_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the shard of each window as an index into `shards`: (len(indices),)."""
        return self._ends.searchsorted(indices, side="right")

    def first_tokens(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where each window begins in its file, in tokens: (len(indices),)."""
        return self._places(indices)[1] // self._dtype.itemsize

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Read the windows of these indices: int64, (len(indices), T + 1).

        Raises:
            DataError: a file was cut, or cannot be read.
        """
        width = self._length + 1
        raw = self._files.read(self._bytes_at(indices), width * self._dtype.itemsize)
        return np.frombuffer(raw, self._dtype).reshape(-1, width).astype(np.int64)

    def will_take(self, indices: NDArray[np.int64]) -> None:
        """Ask the system to fetch windows that are taken soon."""
        for path, offset in self._bytes_at(indices):
            self._files.will_read(path, offset, (self._length + 1) * self._dtype.itemsize)

    def _bytes_at(self, indices: NDArray[np.int64]) -> Iterable[tuple[str, int]]:
        """Return the path of each window's file, and its first byte there."""
        shards, offsets = self._places(indices)
        return zip(map(self._paths.__getitem__, shards.tolist()), offsets.tolist(), strict=True)

    def _places(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the shard of each window, and its first byte in the shard's file."""
        shards = self.shards_of(indices)
        return shards, self._origins[shards] + indices * self._window_bytes
