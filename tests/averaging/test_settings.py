"""Settings: every key does something, what cannot be is refused in one paragraph, shares become steps once."""

import functools
from dataclasses import fields, replace

import pytest
import yaml

from grow.averaging.cadence import resolve
from grow.averaging.settings import AverageCheckpointsConfig, AveragingSettings
from grow.averaging.weighting import emulated_decay, exponential, uniform, weighting
from grow.cli.config import compose
from grow.common.errors import ConfigError


@functools.cache
def preset(choice):
    line = ["checkpoints=[x]", "output=y", f"averaging={choice}"]
    return compose(line, "average_checkpoints", AverageCheckpointsConfig).averaging


def settings(choice, *overrides):
    """A preset with values as the command line would give them."""
    pairs = (override.split("=") for override in overrides)
    return replace(preset(choice), **{key: yaml.safe_load(value) for key, value in pairs})


def plan(choice, *overrides, total_steps=1000, tokens_per_step=100, warmup_tokens=2000):
    return resolve(
        settings(choice, *overrides),
        total_steps=total_steps,
        tokens_per_step=tokens_per_step,
        warmup_tokens=warmup_tokens,
    )


@pytest.mark.parametrize("choice", ["lawa", "ema", "swa", "wsm"])
def test_every_preset_fits_a_run_of_thirty_steps_and_one_of_a_million(choice):
    for total_steps in (30, 1_000_000):
        made = plan(choice, total_steps=total_steps, warmup_tokens=0)
        assert made.first_average_step <= total_steps
        assert any(made.due(step) for step in range(1, total_steps + 1))


def test_none_plans_nothing():
    nothing = AveragingSettings(name="none", kind="none")
    assert resolve(nothing, total_steps=10, tokens_per_step=1, warmup_tokens=0) is None


def test_a_horizon_becomes_k_snapshots_and_a_given_spacing_wins():
    assert plan("lawa").every_steps == 10  # 5 % of 1000 steps in 5
    assert plan("lawa", "horizon=0.2", "k=10").every_steps == 20
    assert plan("lawa", "every_steps=64").every_steps == 64
    assert plan("lawa", total_steps=30, warmup_tokens=0).every_steps == 1  # never less than a step
    assert plan("ema", "decay=0.9").every_steps == round(0.05 * 1000 / 19)
    assert plan("swa").every_steps == 1


def test_snapshots_come_after_the_warm_up_at_multiples_of_the_spacing():
    made = plan("lawa", "every_steps=8")
    due = [step for step in range(1001) if made.due(step)]
    assert due[0] == 24 == made.first_snapshot_step and due[-1] == 1000  # the warm-up ends at step 20
    assert due == list(range(24, 1001, 8))
    assert made.first_average_step == 24 + 4 * 8
    assert plan("lawa", "every_steps=5").first_snapshot_step == 20  # at its end is after it
    assert plan("lawa", "every_steps=5", "start_fraction=0.5").first_snapshot_step == 500
    assert plan("lawa", "every_steps=5", "start_tokens=30_100").first_snapshot_step == 305


def test_the_initial_weights_are_never_due():
    assert not plan("lawa", "every_steps=1", warmup_tokens=0).due(0)


def test_a_plan_says_what_it_resolved_to():
    text = str(plan("lawa", "every_steps=16"))
    assert text == "lawa, 5 snapshots, one every 16 steps: 80 steps, 8.0% of the run; from step 32, average from 96"
    assert "decay 0.6667 every 10 steps" in str(plan("ema"))
    assert "all snapshots, one every step" in str(plan("swa"))


def test_bytes_are_those_of_the_window_or_of_one_total():
    assert plan("lawa").held_bytes(1000) == 20_000
    assert plan("ema").held_bytes(1000) == 8_000


@pytest.mark.parametrize(
    ("choice", "overrides", "match"),
    [
        ("lawa", ["k=0"], r"averaging\.k=0"),
        ("lawa", ["every_steps=0"], r"averaging\.every_steps=0"),
        ("lawa", ["k=null"], r"averaging\.k=5"),
        ("lawa", ["horizon=0"], r"averaging\.horizon=0"),
        ("lawa", ["horizon=1.5"], r"averaging\.horizon=1\.5"),
        ("lawa", ["min_snapshots=6"], r"never holds more than averaging\.k=5"),
        ("lawa", ["start_fraction=-0.1"], r"averaging\.start_fraction"),
        ("lawa", ["start_tokens=-1"], r"averaging\.start_tokens"),
        ("lawa", ["decay=0.5"], r"kind=lawa takes no such key.*every_steps"),
        ("lawa", ["curve=linear"], r"averaging\.curve"),
        ("lawa", ["storage=tape"], "host, disk"),
        ("swa", ["k=5"], r"averaging\.k=5: averaging\.kind=swa"),
        ("lawa", ["on_growth=keep"], "reset, map"),
        ("swa", ["storage=disk"], "storage=disk: .* has no window. Use host"),
        ("ema", ["on_growth=map"], "on_growth=map: .* has no window. Use reset"),
        ("ema", ["k=null"], "one of the two"),
        ("ema", ["decay=1.0"], r"averaging\.decay=1"),
        ("wsm", ["curve=null"], "linear, cosine, minus_sqrt"),
        ("none", [], "nothing to do"),
        ("lawn", [], "Did you mean lawa"),
    ],
)
def test_what_cannot_be_is_refused(choice, overrides, match):
    with pytest.raises(ConfigError, match=match):
        settings(choice, *overrides)


@pytest.mark.parametrize(
    ("choice", "overrides", "match"),
    [
        ("lawa", ["every_steps=256", "k=50"], "span 12800 steps; the run has 1000"),
        ("lawa", ["start_fraction=1.0", "every_steps=10"], "first average would be at step 1040"),
        ("swa", ["start_tokens=200_000"], "the run has 1000 steps"),
        ("lawa", ["horizon=null"], r"averaging\.every_steps=STEPS"),
    ],
)
def test_what_does_not_fit_the_run_is_refused_with_its_numbers(choice, overrides, match):
    with pytest.raises(ConfigError, match=match):
        plan(choice, *overrides)


@pytest.mark.parametrize(
    ("key", "choice", "one", "other", "seen"),
    [
        ("k", "lawa", 3, 4, lambda p: p.k),
        ("k", "ema", 3, 4, lambda p: p.weighting(2).takes),
        ("every_steps", "swa", 3, 4, lambda p: p.due(903)),
        ("horizon", "lawa", 0.05, 0.1, lambda p: p.every_steps),
        ("start_tokens", "swa", 100, 900, lambda p: p.first_snapshot_step),
        ("start_fraction", "swa", 0.1, 0.2, lambda p: p.first_snapshot_step),
        ("min_snapshots", "lawa", 2, 3, lambda p: p.first_average_step),
        ("decay", "ema", 0.5, 0.9, lambda p: p.weighting(2).takes),
        ("curve", "wsm", "linear", "cosine", lambda p: p.weighting(4).takes),
        ("name", "lawa", "this", "that", str),
    ],
)
def test_every_key_changes_what_it_is_about(key, choice, one, other, seen):
    assert seen(plan(choice, f"{key}={one}")) != seen(plan(choice, f"{key}={other}"))


def test_the_keys_tested_above_are_all_there_are():
    elsewhere = {"kind", "reference", "storage", "on_growth"}  # the presets; the window's; a run's
    tested = {
        "k",
        "every_steps",
        "horizon",
        "start_tokens",
        "start_fraction",
        "min_snapshots",
        "decay",
        "curve",
        "name",
    }
    assert {field.name for field in fields(AveragingSettings)} == tested | elsewhere


@pytest.mark.parametrize("made", [uniform(7), exponential(0.8, 7), emulated_decay("minus_sqrt", 7)], ids=str)
def test_shares_sum_to_one(made):
    assert sum(made.shares) == pytest.approx(1, abs=1e-12)


def test_a_matching_decay_is_as_old_in_the_mean_as_the_window():
    for k in (2, 5, 20):
        shares = weighting(settings("ema", f"k={k}"), 2000).shares
        age = sum(share * age for age, share in enumerate(reversed(shares)))
        assert age == pytest.approx((k - 1) / 2)


def test_decay_curves_put_most_weight_where_they_fall_fastest():
    assert emulated_decay("minus_sqrt", 4).takes == pytest.approx((0.5, 0.2071, 0.1589, 0.1340), abs=1e-4)
    linear, cosine = emulated_decay("linear", 8).takes, emulated_decay("cosine", 8).takes
    assert linear == pytest.approx([0.125] * 8)
    assert max(cosine) in cosine[3:5] and cosine[0] < 0.125 > cosine[7]
