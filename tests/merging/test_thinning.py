"""What is kept of a delta: exact ranks, and the statistics of what is drawn."""

import numpy as np
import pytest
import torch

from grow.families.tensor_file import TensorInfo
from grow.merging.merged_tensor import _thin_one
from grow.merging.settings import MergingSettings
from grow.merging.thinning import TopOf, drop_probabilities, find_threshold, magnitude_bits, uniform_draws

SEEDS, P = 200, 0.9
ROWS, COLUMNS = 6, 40


def thinned(delta, seed, place=0, thin="random", rescale="unbiased", **keys):
    settings = MergingSettings(name="x", thin=thin, drop=P, rescale=rescale, seed=seed, **keys)
    info = TensorInfo(name="w", shape=tuple(delta.shape), dtype=torch.float64)
    flat = delta.flatten().clone()
    _thin_one(settings, place, info, [])(flat, slice(0, flat.numel()))
    return flat.view(delta.shape)


@pytest.fixture(scope="module")
def delta():
    return torch.randn(ROWS, COLUMNS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def within_three_errors(samples, expected):
    """Whether the mean of samples (seeds, ...) is the expected one, in all but the few places that chance allows."""
    error = samples.std(0) / len(samples) ** 0.5
    off = (samples.mean(0) - expected).abs() > 3 * error
    return float(off.double().mean()) <= (0 if off.dim() == 0 else 0.03)


def test_over_seeds_the_mean_of_dare_is_the_delta_and_its_variance_the_formula(delta):
    made = torch.stack([thinned(delta, seed) for seed in range(SEEDS)])
    assert within_three_errors(made, delta)
    assert within_three_errors((made - delta).square().sum((1, 2)), P / (1 - P) * delta.square().sum())
    x = torch.randn(COLUMNS, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    spread = ((made - delta) @ x).square()
    assert within_three_errors(spread, P / (1 - P) * (delta.square() @ x.square()))
    assert not within_three_errors(torch.stack([thinned(delta, s, rescale="none") for s in range(SEEDS)]), delta)


def test_della_is_unbiased_with_unequal_probabilities(delta):
    made = torch.stack([thinned(delta, s, thin="ranked", spread=0.1) for s in range(SEEDS)])
    assert within_three_errors(made, delta)


def test_two_models_share_no_mask_and_one_seed_has_one(delta):
    ones = torch.ones(100, 100, dtype=torch.float64)
    first, second = (thinned(ones, 0, place).flatten() for place in (0, 1))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.05
    assert torch.equal(first, thinned(ones, 0, 0).flatten())


def test_draws_depend_on_the_place_of_the_element_alone():
    whole = uniform_draws(3, 1, "w", slice(0, 1000))
    assert whole.min() >= 0 and whole.max() < 1
    for start, stop in ((0, 7), (5, 6), (13, 901), (999, 1000)):
        assert torch.equal(uniform_draws(3, 1, "w", slice(start, stop)), whole[start:stop])
    others = [uniform_draws(*key, slice(0, 1000)) for key in ((4, 1, "w"), (3, 2, "w"), (3, 1, "v"))]
    assert not any(torch.equal(whole, other) for other in others)


@pytest.mark.parametrize("seed", range(20))
def test_thresholds_are_those_of_a_full_sort_with_ties_in_the_order_they_lie_in(seed):
    generator = np.random.default_rng(seed)
    kinds = [generator.normal(size=400), generator.integers(-4, 5, 400) * 1.0, np.exp(generator.normal(size=400) * 30)]
    values = torch.from_numpy(kinds[seed % 3])
    tensors = {"c": values[:150], "a": values[150:155], "b": values[155:]}
    joined = torch.cat([tensors[name] for name in sorted(tensors)]).abs().float()
    order = joined.argsort(descending=True, stable=True)
    for count in (0, 1, 57, 399, 400):
        blocks = {name: [magnitude_bits(part) for part in tensor.split(32)] for name, tensor in tensors.items()}
        found = find_threshold(tensors, blocks.__getitem__, count)
        tops = {name: TopOf(found, name) for name in tensors}
        kept = np.concatenate([tops[name](block) for name in sorted(tensors) for block in blocks[name]])
        expected = np.zeros(400, dtype=bool)
        expected[order[:count].numpy()] = True
        assert (kept == expected).all()


def test_drop_probabilities_fall_with_the_rank_in_a_row_and_have_the_mean_that_was_asked_for():
    rows = torch.tensor([3.0, -1, 2, 2, 5, 6, 7, -8])
    chances = drop_probabilities(rows, 4, 0.5, 0.4).view(2, 4)
    expected = torch.tensor([[0.35, 0.65, 0.45, 0.55], [0.65, 0.55, 0.45, 0.35]], dtype=torch.float64)
    assert torch.allclose(chances, expected, atol=1e-15)
