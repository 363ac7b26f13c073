"""The order in which a run reads the windows of its training split, and how much of each source that is."""

import numpy as np
from numpy.typing import NDArray

from grow.common.errors import ConfigError
from grow.data.mixture import Mixture, seed_of
from grow.data.order import order
from grow.data.windows import Windows

COUNTED_POSITIONS = 2**25  # of an epoch: some 6 s to count, and 69e9 tokens in sequences of 2,048
_COUNTED_AT_ONCE = 2**16


class RunOrder:
    """All windows in one permutation an epoch. S number of sources.

    Args:
        windows: Windows of the training split, at least one.
        seed: Seed of the run.
    """

    def __init__(self, windows: Windows, seed: int) -> None:
        self._windows, self._seed = windows, seed
        self.sources = tuple(sorted({shard.source for shard in windows.shards}))
        """Names of the sources that are read, sorted."""
        numbers = {source: number for number, source in enumerate(self.sources)}
        self._source_of_shard = np.array([numbers[shard.source] for shard in windows.shards])
        self.sizes = np.zeros(len(self.sources), np.int64)
        """Windows of each source: (S,)."""
        np.add.at(self.sizes, self._source_of_shard, windows.counts)
        self._counted = (0, np.zeros(len(self.sources), np.int64))  # a position, and what was read in its epoch

    def windows_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the window that is read at each position: int64, of the shape of `positions`."""
        return order(positions, len(self._windows), self._seed)

    def read_before(self, position: int) -> NDArray[np.int64]:
        """Return the sequences of each source that are read before a position: (S,).

        In an epoch of more than 2^25 positions it is the source's share of them from there on, to about 1 in 10,000.
        """
        epochs, rest = divmod(position, len(self._windows))
        if rest > COUNTED_POSITIONS:
            return epochs * self.sizes + (self.sizes * (rest / len(self._windows))).astype(np.int64)
        return epochs * self.sizes + self._read_in_epoch(position, rest)

    def epochs_before(self, position: int) -> NDArray[np.float64]:
        """Return how often each source has been read before a position, in epochs of its own: (S,)."""
        return self.read_before(position) / self.sizes

    def check_epochs(self, position: int, most: float | None) -> None:
        """Refuse a run that reads a source more often than it may.

        Args:
            position: Position where the run ends.
            most: Largest number of epochs of a source; None for any.

        Raises:
            ConfigError: a source is read more often; it says how often.
        """
        if most is None:
            return
        epochs = self._epochs_at_end(position)
        worst = int(np.argmax(epochs))
        if epochs[worst] > most:
            raise ConfigError(
                f"data.max_epochs={most}: the run would read source {self.sources[worst]} {epochs[worst]:.2f} times "
                f"({self.sizes[worst]:,} sequences). Lower trainer.max_tokens or the source's weight, or add text."
            )

    def _epochs_at_end(self, position: int) -> NDArray[np.float64]:
        return np.full(len(self.sources), position / len(self._windows))

    def _read_in_epoch(self, position: int, rest: int) -> NDArray[np.int64]:
        """Count the sources of the last `rest` positions, from those on that an earlier call has counted."""
        start, counts = self._counted
        if not position - rest <= start <= position:
            start, counts = position - rest, np.zeros_like(counts)
        for first in range(start, position, _COUNTED_AT_ONCE):
            found = self.windows_at(np.arange(first, min(first + _COUNTED_AT_ONCE, position)))
            sources = self._source_of_shard[self._windows.shards_of(found)]
            counts = counts + np.bincount(sources, minlength=len(self.sources))
        self._counted = (position, counts)
        return counts


class MixedOrder(RunOrder):
    """The windows of each source in permutations of their own, in the shares of a mixture.

    Args:
        windows: Windows of the training split.
        seed: Seed of the run.
        mixture: Shares of the sources.

    Raises:
        ConfigError: a source of the mixture has no window.
    """

    def __init__(self, windows: Windows, seed: int, mixture: Mixture) -> None:
        super().__init__(windows, seed)
        unknown = sorted(set(mixture.sources) - set(self.sources))
        if unknown:
            raise ConfigError(
                f"data.mixture, data.stages: expected sources with a training sequence ({', '.join(self.sources)}), "
                f"found {', '.join(unknown)}."
            )
        numbers = [self.sources.index(source) for source in mixture.sources]
        self._mixture, self.sources, self.sizes = mixture, mixture.sources, self.sizes[numbers]
        starts = np.cumsum(windows.counts) - windows.counts
        self._places = [_Place(windows.counts, starts, self._source_of_shard == number) for number in numbers]

    def windows_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the window that is read at each position: int64, of the shape of `positions`."""
        sources, numbers = self._mixture.places(positions.ravel(), self._seed)
        found = np.empty_like(numbers)
        for source in np.unique(sources).tolist():
            own = sources == source
            items = order(numbers[own], int(self.sizes[source]), seed_of(self.sources[source], self._seed))
            found[own] = self._places[source].windows(items)
        return found.reshape(positions.shape)

    def read_before(self, position: int) -> NDArray[np.int64]:
        """Return the sequences of each source that are read before a position, exactly: (S,)."""
        return self._mixture.read_before(position, self._seed)

    def _epochs_at_end(self, position: int) -> NDArray[np.float64]:
        return self.epochs_before(position)


def run_order(windows: Windows, seed: int, mixture: Mixture | None) -> RunOrder:
    """Return the order of a run with a mixture or without one.

    Raises:
        ConfigError: a source of the mixture has no window.
    """
    return RunOrder(windows, seed) if mixture is None else MixedOrder(windows, seed, mixture)


class _Place:
    """Where the windows of one source are among all windows.

    Args:
        counts: Windows of each shard.
        starts: First window of each shard.
        own: Whether each shard is of this source.
    """

    def __init__(self, counts: NDArray[np.int64], starts: NDArray[np.int64], own: NDArray[np.bool_]) -> None:
        self._ends = np.cumsum(counts[own])
        self._shifts = starts[own] - (self._ends - counts[own])

    def windows(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers among all windows of the source's own windows with these numbers."""
        return items + self._shifts[self._ends.searchsorted(items, side="right")]
