"""The order of the data: a keyed permutation that computes the item at any position of a run, without a stored list.

An alternating Feistel network permutes the b-bit numbers, where b is the smallest number of bits that holds n - 1.
Results of n or more are permuted again until they are below n (cycle walking: Black & Rogaway, "Ciphers with arbitrary
finite domains", 2002). Both steps are invertible, so each epoch reads every item once, and can start anywhere.
"""

import numpy as np
from numpy.typing import NDArray

ROUNDS = 4
VALIDATION_SEED = 0  # of the order of validation windows; not the run's seed, so that all runs read the same ones
Words = NDArray[np.uint64]


def order(positions: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Return the item that is read at each position of an endless run; each `n` positions are a new permutation.

    Args:
        positions: Positions, 0 or more, of any shape.
        n: Number of items, at least 1.
        seed: Seed of the permutations, 0 or more.

    Returns:
        Items, int64 in [0, n), of the shape of `positions`.
    """
    epochs, values = np.divmod(np.asarray(positions, np.uint64).ravel(), np.uint64(n))
    keys = _mix(_mix(np.full(1, seed, np.uint64)) + epochs)
    bits = (n - 1).bit_length()
    values = _permute(values, keys, bits)
    while (outside := np.flatnonzero(values >= n)).size:
        values[outside] = _permute(values[outside], keys[outside], bits)
    return values.astype(np.int64).reshape(np.shape(positions))


def _permute(values: Words, keys: Words, bits: int) -> Words:
    """Permute numbers below 2**bits, each with its own key."""
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    high, low = values >> low_bits, values & low_mask
    for step in range(ROUNDS):
        high ^= _mix(keys + (low << np.uint64(8)) + np.uint64(2 * step)) & high_mask
        low ^= _mix(keys + (high << np.uint64(8)) + np.uint64(2 * step + 1)) & low_mask
    return (high << low_bits) | low


def _mix(words: Words) -> Words:
    """Apply SplitMix64's output function (Steele, Lea & Flood, 2014): every input bit affects every output bit."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
