"""Windows: the sequences of equal length into which the tokens of a split are cut."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Windows:
    """All sequences of one split: window i holds the tokens [i*T, i*T + T], and shares its last token with the next.

    Windows never cross files; the remaining tokens at the end of a file are dropped.
    """

    def __init__(self, arrays: list[NDArray[Any]], sequence_length: int) -> None:
        width = sequence_length + 1
        self._width = width
        self._kept = np.flatnonzero([len(array) >= width for array in arrays])
        self._views = [
            np.lib.stride_tricks.sliding_window_view(arrays[kept], width)[::sequence_length] for kept in self._kept
        ]
        self._ends = np.cumsum([len(view) for view in self._views], dtype=np.int64)
        self._starts = self._ends - np.array([len(view) for view in self._views], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._views else 0

    def arrays_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index of the array that each window lies in: (len(indices),)."""
        return self._kept[np.searchsorted(self._ends, indices, side="right")]

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the windows of these indices: int64, (len(indices), T + 1)."""
        files = np.searchsorted(self._ends, indices, side="right")
        rows = indices - self._starts[files]
        out = np.empty((len(indices), self._width), np.int64)
        for target, file, row in zip(out, files.tolist(), rows.tolist(), strict=True):
            target[:] = self._views[file][row]
        return out
