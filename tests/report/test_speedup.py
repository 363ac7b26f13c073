"""The speed-up on curves whose answer is known by hand."""

import pytest

from grow.common.errors import DataError
from grow.report.curves import Curve, interval, mean_curve
from grow.report.speedup import SpeedupOutcome, source_share, speedup


def curve(*losses, every=100.0, flops_per_token=6.0, seconds_per_token=0.5):
    tokens = [every * index for index in range(len(losses))]
    return Curve(
        tokens=tokens,
        flops=[flops_per_token * count for count in tokens],
        seconds=[seconds_per_token * count for count in tokens],
        loss=losses,
    )


BASELINE = curve(8, 6, 5, 4)  # reaches its final loss, 4, after 300 tokens


def test_a_run_that_meets_the_target_on_a_validation_costs_what_it_had_spent_there():
    found = speedup(curve(5, 4, 3), BASELINE, axis="tokens")
    assert (found.outcome, found.cost_run, found.cost_baseline) == (SpeedupOutcome.REACHED, 100, 300)
    assert (found.speedup, found.saving, found.target_loss) == (3, pytest.approx(2 / 3), 4)


def test_a_crossing_between_two_validations_is_interpolated_linearly():
    found = speedup(curve(6, 5, 3), BASELINE, axis="tokens")
    assert found.cost_run == 150
    assert found.speedup == 2


@pytest.mark.parametrize(("axis", "cost"), [("tokens", 150), ("flops", 900), ("seconds", 75)])
def test_the_crossing_is_interpolated_along_the_chosen_axis(axis, cost):
    assert speedup(curve(6, 5, 3), BASELINE, axis=axis).cost_run == cost


def test_a_run_at_twice_the_flops_a_token_gains_in_tokens_and_not_in_flops():
    dear = curve(6, 5, 3, flops_per_token=12)
    assert speedup(dear, BASELINE, axis="tokens").speedup == 2
    assert speedup(dear, BASELINE, axis="flops").speedup == 1


def test_the_baseline_against_itself_has_speedup_one():
    found = speedup(BASELINE, BASELINE, axis="tokens")
    assert (found.speedup, found.saving) == (1, 0)


def test_a_run_that_stays_above_the_target_never_reaches_it_and_says_how_much_is_left():
    found = speedup(curve(8, 7, 4.25), BASELINE, axis="tokens")
    assert (found.outcome, found.gap) == (SpeedupOutcome.NEVER_REACHED, 0.25)
    assert (found.cost_run, found.speedup, found.saving) == (None, None, None)


def test_a_run_already_there_has_no_cost_and_no_ratio():
    found = speedup(curve(3.9, 3.5), BASELINE, axis="tokens")
    assert (found.outcome, found.cost_run) == (SpeedupOutcome.ALREADY_THERE, 0)
    assert (found.speedup, found.saving) == (None, 1)


def test_a_run_already_there_costs_its_source_when_that_is_included():
    found = speedup(curve(3.9, 3.5), BASELINE, axis="tokens", source_cost=150)
    assert (found.outcome, found.cost_run, found.speedup) == (SpeedupOutcome.ALREADY_THERE, 150, 2)


def test_a_run_that_starts_exactly_at_the_target_is_already_there():
    assert speedup(curve(4, 5, 3), BASELINE, axis="tokens").outcome is SpeedupOutcome.ALREADY_THERE


def test_the_sources_cost_is_added_to_the_run_and_not_to_the_baseline():
    found = speedup(curve(5, 4, 3), BASELINE, axis="tokens", source_cost=500)
    assert (found.cost_run, found.cost_baseline, found.speedup) == (600, 300, 0.5)
    assert found.saving == -1


@pytest.mark.parametrize(("accounting", "share"), [("F", 0), ("I", 400), ("A", 100)])
def test_an_accounting_charges_nothing_all_or_one_mth_of_the_source(accounting, share):
    assert source_share(accounting, 400, amortised_over=4) == share


@pytest.mark.parametrize(("accounting", "share"), [("F", 0), ("I", None), ("A", None)])
def test_an_unknown_source_is_free_only_where_sources_are_free(accounting, share):
    assert source_share(accounting, None, amortised_over=4) == share


def test_an_unknown_source_cost_gives_unknown_and_no_number():
    found = speedup(curve(5, 4, 3), BASELINE, axis="tokens", source_cost=None)
    assert (found.outcome, found.cost_run, found.speedup, found.saving) == (SpeedupOutcome.UNKNOWN, None, None, None)


def test_never_reached_is_known_whatever_the_source_cost():
    assert speedup(curve(8, 7), BASELINE, axis="tokens", source_cost=None).outcome is SpeedupOutcome.NEVER_REACHED


def test_the_first_crossing_counts_where_a_curve_rises_again():
    found = speedup(curve(5, 6, 3, 5, 2), BASELINE, axis="tokens")
    assert found.cost_run == pytest.approx(100 + 100 * 2 / 3)


def test_the_first_crossing_counts_for_the_baseline_too():
    assert speedup(BASELINE, curve(8, 3, 5, 4), axis="tokens").cost_baseline == 80


def test_a_baseline_that_did_not_learn_is_refused():
    with pytest.raises(DataError, match="Expected a baseline that learns"):
        speedup(BASELINE, curve(4, 5, 4), axis="tokens")
    with pytest.raises(DataError):
        speedup(BASELINE, curve(4), axis="tokens")


def test_the_mean_of_seeds_is_taken_where_all_of_them_validated():
    mean = mean_curve([curve(8, 6, 4), curve(6, 4), curve(8, 6, 5, every=50)])
    assert mean.tokens.tolist() == [0, 100]
    assert mean.loss.tolist() == [pytest.approx(22 / 3), 5]


def ratio(run, baseline):
    return speedup(run, baseline, axis="tokens").as_ratio


def test_the_interval_of_three_seeds_spans_the_seeds_and_holds_the_mean():
    seeds = [curve(5, 4, 3), curve(6, 5, 3), curve(6, 4.5, 3.5)]
    alone = [ratio(seed, BASELINE) for seed in seeds]
    low, high = interval(ratio, seeds, [BASELINE])
    assert min(alone) <= low < ratio(mean_curve(seeds), BASELINE) < high <= max(alone)
    assert (low, high) == interval(ratio, seeds, [BASELINE])


def test_the_interval_resamples_the_baselines_seeds_too():
    low, high = interval(ratio, [curve(5, 4, 3)] * 3, [BASELINE, curve(8, 6, 5, 4.5), curve(8, 6, 4.5, 3.5)])
    assert low < high


def test_equal_seeds_give_an_interval_of_no_width():
    assert interval(ratio, [curve(5, 4, 3)] * 3, [BASELINE]) == (3, 3)


def test_fewer_than_three_seeds_give_no_interval():
    assert interval(ratio, [curve(5, 4, 3)] * 2, [BASELINE]) is None


def test_seeds_that_never_get_there_pull_the_interval_down_to_zero():
    low, high = interval(ratio, [curve(5, 4, 3.9), curve(8, 7, 7), curve(8, 7, 7)], [BASELINE])
    assert (low, high) == (0, 3)


def test_seeds_that_are_there_at_once_push_the_interval_up_to_infinity():
    assert interval(ratio, [curve(5, 4, 3), curve(3, 2), curve(3, 2)], [BASELINE])[1] == float("inf")
