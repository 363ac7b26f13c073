"""Which elements of a delta are kept: drawn, or by exact ranks of their magnitudes.

    random   keep where u >= p                        u depends on seed, place of the model, tensor's name and element
    largest  keep ranks 0 ... k - 1 of |delta|
    middle   keep ranks m ... m + k - 1
    ranked   keep where u >= p_i,  p_i = p + spread * ((rank in the row + 1/2) / row length - 1/2)

Magnitudes are compared as float32, equal ones in the order they lie in: tensors by name, then elements. A threshold
is exact from two histograms, of the upper and of the lower half of the magnitudes' bit patterns, which are in the order
of the magnitudes.

DARE: arXiv 2311.03099. TIES: arXiv 2306.01708. Breadcrumbs: arXiv 2312.06795. DELLA: arXiv 2406.11617.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_HALF = 2**16
_PER_COUNT = 4  # numbers that Philox makes of one count

Magnitudes = Callable[[str], Iterable[NDArray[np.uint32]]]
"""Name of a tensor -> bit patterns of its magnitudes, block by block."""


def uniform_draws(seed: int, place: int, tensor: str, elements: slice) -> Tensor:
    """Draw a number of [0, 1) for each element of a range: float64, (stop - start,).

    Args:
        seed: Seed of the merge.
        place: Place of the model in the list.
        tensor: Name of the tensor.
        elements: Range of the tensor's elements; a number depends on its own element alone.
    """
    key = hashlib.sha256(f"{seed}/{place}/{tensor}".encode()).digest()
    stream = np.random.Philox(key=int.from_bytes(key[:16], "little"))
    first = elements.start // _PER_COUNT
    stream.advance(first)
    raw = stream.random_raw(elements.stop - first * _PER_COUNT)[elements.start - first * _PER_COUNT :]
    return torch.from_numpy((raw >> np.uint64(11)).astype(np.float64)).mul_(2.0**-53)


def magnitude_bits(values: Tensor) -> NDArray[np.uint32]:
    """Return the bit patterns of float32 magnitudes, which sort as the magnitudes do."""
    bits: NDArray[np.uint32] = values.abs().float().numpy().view(np.uint32)
    return bits


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """The boundary of the `count` largest magnitudes."""

    count: int
    bits: int
    """Bit pattern of the smallest magnitude among them."""
    equals: Mapping[str, int]
    """How many of each tensor's magnitudes equal to it are among them; the first ones."""


def find_threshold(names: Iterable[str], magnitudes: Magnitudes, count: int) -> Threshold:
    """Find the boundary of the `count` largest magnitudes of some tensors together.

    Args:
        names: Names of the tensors, in any order.
        magnitudes: Reads their bit patterns; it is called for each tensor two or three times.
        count: How many there shall be.
    """
    names = sorted(names)
    if count == 0:
        return Threshold(count=0, bits=2**32, equals={})
    upper = np.zeros(_HALF, dtype=np.int64)
    for block in (block for name in names for block in magnitudes(name)):
        upper += np.bincount(block >> 16, minlength=_HALF)
    high, above = _bin_of(upper, count)
    lower = np.zeros(_HALF, dtype=np.int64)
    for block in (block for name in names for block in magnitudes(name)):
        lower += np.bincount(block[block >> 16 == high] & (_HALF - 1), minlength=_HALF)
    low, above_low = _bin_of(lower, count - above)
    bits, quota = high << 16 | low, count - above - above_low
    if quota == lower[low]:
        return Threshold(count=count, bits=bits, equals=dict.fromkeys(names, 2**62))
    equals = {}
    for name in names:
        found = sum(int((block == bits).sum()) for block in magnitudes(name)) if quota else 0
        equals[name] = min(found, quota)
        quota -= equals[name]
    return Threshold(count=count, bits=bits, equals=equals)


def _bin_of(histogram: NDArray[np.int64], count: int) -> tuple[int, int]:
    """Return the bin in which the count-th largest lies, and how many lie above that bin."""
    at_least = np.cumsum(histogram[::-1])[::-1]
    found = int(np.flatnonzero(at_least >= count)[-1])
    return found, int(at_least[found] - histogram[found])


class TopOf:
    """Says block by block which elements of one tensor are above a threshold; blocks come in order, from the first.

    Args:
        threshold: The boundary.
        name: Name of the tensor.
    """

    def __init__(self, threshold: Threshold, name: str) -> None:
        self._bits = threshold.bits
        self._quota = threshold.equals.get(name, 0)

    def __call__(self, block: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Return which elements of the next block are among the largest."""
        top = block > self._bits
        if self._quota:
            equal = np.flatnonzero(block == self._bits)[: self._quota]
            top[equal] = True
            self._quota -= len(equal)
        return top


def drop_probabilities(delta: Tensor, row_length: int, drop: float, spread: float) -> Tensor:
    """Return the probability with which `ranked` thinning drops each element of whole rows: float64, (elements,).

    The mean over a row is `drop`; the largest magnitude of a row has the lowest probability.
    """
    rows = torch.from_numpy(magnitude_bits(delta).astype(np.int64)).view(-1, row_length)
    order = rows.argsort(dim=1, descending=True, stable=True)
    even = drop + spread * ((torch.arange(row_length, dtype=torch.float64) + 0.5) / row_length - 0.5)
    return torch.empty(rows.shape, dtype=torch.float64).scatter_(1, order, even.expand(len(rows), -1)).flatten()


def ranges(numel: int, row_length: int, block: int) -> Iterator[slice]:
    """Yield ranges of whole rows that together cover a tensor, each of about `block` elements and at least a row."""
    step = max(block // max(row_length, 1), 1) * max(row_length, 1)
    return (slice(start, min(start + step, numel)) for start in range(0, numel, step))
