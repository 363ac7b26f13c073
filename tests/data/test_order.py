"""The order is a permutation an epoch, and a pure function of seed and position."""

import numpy as np
import pytest

from grow.data.order import order


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1000, 4097])
def test_every_epoch_visits_everything_once(n):
    epochs = order(np.arange(3 * n), n, seed=5).reshape(3, n)
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs.tolist())


def test_epochs_and_seeds_differ():
    first, second = order(np.arange(2000), 1000, seed=0).reshape(2, 1000)
    other = order(np.arange(1000), 1000, seed=1)
    assert (first == second).mean() < 0.01
    assert (first == other).mean() < 0.01
    assert (first == np.arange(1000)).mean() < 0.01


def test_order_does_not_depend_on_how_positions_are_asked_for():
    whole = order(np.arange(500), 130, seed=3)
    single = [int(order(np.array([position]), 130, seed=3)[0]) for position in range(500)]
    square = order(np.arange(500).reshape(20, 25), 130, seed=3)
    assert whole.tolist() == single
    assert square.shape == (20, 25)
    assert square.ravel().tolist() == single


def test_order_is_the_same_in_every_version_and_on_every_machine():
    assert order(np.arange(10), 10, seed=0).tolist() == [7, 5, 2, 9, 1, 8, 6, 0, 3, 4]


def test_far_positions_of_huge_data_are_in_range_and_distinct():
    n = 10**12
    found = order(10**15 + np.arange(10_000), n, seed=9)
    assert len(set(found.tolist())) == 10_000
    assert found.min() >= 0
    assert found.max() < n


def test_neighbours_are_spread_evenly():
    """A chi-squared test: 20,000 successive positions over 50 equal parts of the data; 99.99 % lie below 95."""
    counts, _ = np.histogram(order(np.arange(20_000), 10**6, seed=2), bins=50, range=(0, 10**6))
    assert ((counts - 400) ** 2 / 400).sum() < 95


def test_small_data_reaches_many_permutations_evenly():
    """Over 6,000 epochs of 4 items each of the 24 permutations comes up about 250 times."""
    epochs = order(np.arange(4 * 6000), 4, seed=0).reshape(6000, 4)
    _, counts = np.unique(epochs, axis=0, return_counts=True)
    assert len(counts) == 24
    assert counts.min() > 125
