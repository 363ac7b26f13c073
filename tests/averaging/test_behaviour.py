"""What averages are for, where it can be reckoned or seen in a second: noise averaged out, spikes that leave, rates."""

import itertools
import math

import pytest
import torch

from grow.averaging.average import new_average
from tests.averaging.conftest import make_plan, reference_mean, same, walk

K, EVERY = 5, 4


def excess_losses(lr, dimensions=20_000, steps=400):
    """(live, averaged) loss above the minimum at the end of SGD at a constant rate on a quadratic with noisy gradients.

    With unit curvature and unit noise: theta <- theta - lr (theta + noise), loss theta^2 / 2.
    """
    generator, theta = torch.Generator().manual_seed(0), torch.zeros(dimensions)
    average = new_average(make_plan(k=K, every_steps=EVERY))
    for step in range(1, steps + 1):
        theta = theta - lr * (theta + torch.randn(dimensions, generator=generator))
        if average.plan.due(step):
            average.push(step, {"theta": theta})
    return tuple(float(x.square().mean() / 2) for x in (theta, average.mean()["theta"]))


def predicted_ratio(lr):
    """Variance of a mean of K stationary values EVERY steps apart, whose correlation is (1 - lr)^EVERY, over one's."""
    correlation = (1 - lr) ** EVERY
    return (1 + 2 * sum((1 - j / K) * correlation**j for j in range(1, K))) / K


@pytest.mark.parametrize("lr", [0.05, 0.1, 0.2])
def test_on_a_noisy_quadratic_the_average_is_better_by_the_ratio_of_variances(lr):
    live, averaged = excess_losses(lr)
    assert live == pytest.approx(lr / (2 - lr) / 2, rel=0.05)
    assert averaged / live == pytest.approx(predicted_ratio(lr), rel=0.05)
    assert averaged < live


def test_the_higher_the_rate_the_more_an_average_gains_on_a_noisy_quadratic():
    gains = [live - averaged for live, averaged in map(excess_losses, (0.05, 0.1, 0.2))]
    assert gains[1] > 1.5 * gains[0] and gains[2] > 1.5 * gains[1]


@pytest.mark.parametrize("storage", ["host", "disk"])
@pytest.mark.parametrize("kind", ["lawa", "wsm"])
def test_a_spike_moves_the_average_little_and_is_gone_to_the_bit_k_pushes_later(tmp_path, kind, storage):
    """Even one whose values dwarf all others: a sum that is kept up to date would never forget its rounding."""
    quiet, spiked = (new_average(make_plan(kind, k=K, storage=storage), tmp_path / name) for name in ("one", "other"))
    away = []
    for step, weights in enumerate(walk(20), 1):
        quiet.push(step, weights)
        spiked.push(step, {name: tensor + 1e6 for name, tensor in weights.items()} if step == 9 else weights)
        if quiet.ready:
            away.append((step, not same(spiked.mean(), quiet.mean())))
    assert [step for step, differs in away if differs] == list(range(9, 9 + K))


def test_one_bad_snapshot_of_k_raises_a_quadratic_loss_by_its_share_squared():
    quiet, spiked, path = new_average(make_plan(k=K)), new_average(make_plan(k=K)), walk(12, scale=0.01)
    for step, weights in enumerate(path, 1):
        quiet.push(step, weights)
        spiked.push(step, {name: tensor + 10 for name, tensor in weights.items()} if step == 9 else weights)
    best = reference_mean(path[-K:])["matrix"]
    live, averaged = ((w - best).square().mean() for w in (path[8]["matrix"] + 10, spiked.mean()["matrix"]))
    assert float(averaged / live) == pytest.approx(1 / K**2, rel=0.02)


def test_an_ema_forgets_a_spike_by_its_decay_and_never_whole():
    quiet, spiked = (new_average(make_plan("ema", k=None, decay=0.5)) for _ in range(2))
    for step, weights in enumerate(walk(12), 1):
        quiet.push(step, weights)
        spiked.push(step, {name: tensor + 1.0 for name, tensor in weights.items()} if step == 5 else weights)
    left = spiked.mean()["matrix"] - quiet.mean()["matrix"]
    assert left.mean().item() == pytest.approx(0.5 * 0.5**7, rel=1e-4)


VOCABULARY, STEPS, CHECKS = 64, 600, 10
BEST_LR = 0.1  # of 0.003, 0.01, ..., 1: the lowest loss at the end of a run


@pytest.fixture(scope="module")
def runs():
    """Loss of a bigram model along two cosine runs: {times the best rate: {live, lawa or ema: one at each check}}."""
    torch.set_num_threads(1)
    return {times: trained(times * BEST_LR) for times in (1, 10)}


def trained(peak):
    """Adam on the next token of a language in which each one says a good deal about the next."""
    generator, losses = torch.Generator().manual_seed(0), {"live": [], "lawa": [], "ema": []}
    language = (2 * torch.randn(VOCABULARY, VOCABULARY, generator=generator)).softmax(-1)
    embed, head = (0.1 * torch.randn(VOCABULARY, 16, generator=generator) for _ in range(2))
    weights = {"embed": embed.requires_grad_(), "head": head.requires_grad_()}
    adam = torch.optim.Adam(weights.values(), lr=peak, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 0.5 * (1 + math.cos(math.pi * step / STEPS)))
    averages = {kind: new_average(make_plan(kind, k=K, every_steps=6, total_steps=STEPS)) for kind in ("lawa", "ema")}
    for step in range(1, STEPS + 1):
        first = torch.randint(VOCABULARY, (64,), generator=generator)
        then = language[first].multinomial(1, generator=generator).squeeze(1)
        loss = torch.nn.functional.cross_entropy(weights["embed"][first] @ weights["head"].T, then)
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        if averages["lawa"].plan.due(step):
            for average in averages.values():
                average.push(step, weights)
        if step % (STEPS // CHECKS) == 0:
            for name, value in {"live": weights, **{kind: each.mean() for kind, each in averages.items()}}.items():
                losses[name].append(true_loss(value, language))
    return {name: torch.tensor(values) for name, values in losses.items()}


def true_loss(weights, language):
    with torch.no_grad():
        return float(-(language * (weights["embed"] @ weights["head"].T).log_softmax(-1)).sum(-1).mean())


def test_at_ten_times_the_best_rate_the_average_leads_and_its_lead_closes_as_the_rate_decays(runs):
    gain = runs[10]["live"] - runs[10]["lawa"]
    assert gain[CHECKS // 2 - 1] > 0.5  # nats
    assert abs(gain[-1]) < 0.01
    assert all(later < earlier for earlier, later in itertools.pairwise(gain[CHECKS // 2 - 1 :]))


def test_an_ema_as_old_as_the_window_does_what_the_window_does(runs):
    gain = runs[10]["live"] - runs[10]["lawa"]
    apart = (runs[10]["ema"] - runs[10]["lawa"]).abs()
    assert apart[CHECKS // 2 - 1 :].max() < 0.1 * gain[CHECKS // 2 - 1] and apart[-1] < 0.01


def test_a_higher_rate_gives_the_average_more_to_gain_and_does_not_make_it_the_better_model(runs):
    """Both what the paper shows and what its reviewers said of it."""
    halfway = CHECKS // 2 - 1
    gains = {times: float(run["live"][halfway] - run["lawa"][halfway]) for times, run in runs.items()}
    assert gains[10] > 3 * gains[1] > 0
    assert runs[10]["lawa"][halfway] > runs[1]["live"][halfway]
