"""Run directories are read, damaged ones are refused, and runs are grouped into arms."""

import json

import numpy as np
import pytest

from grow.common.errors import CheckpointError, ConfigError, DataError
from grow.report.arms import read_arms, read_baseline
from grow.report.runs import FROM_NOISE, SOURCE_TRAINED_FURTHER, read_run


def append(run, text):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(text)


def row(step, loss, **changes):
    values = {"step": step, "tokens": step * 100, "flops": step * 60_000, "seconds": float(step), "val/loss": loss}
    return json.dumps(values | changes) + "\n"


def test_a_run_is_read_with_its_curve_lineage_and_growth_check(three_roles, tmp_path):
    run = read_run(tmp_path / "grown")
    assert (run.name, run.label, run.seed) == ("grown", "hyperclone_noisy", 0)
    assert run.curve.tokens.tolist() == [0, 1000, 2000, 3000, 4000]
    assert run.curve.loss.tolist() == [5.0, 4.5, 4.0, 3.8, 3.7]
    assert (run.lineage.tokens, run.growth["preserved"], run.model["parameters"]) == (500, True, 100)


def test_a_torn_last_line_is_ignored(make_run):
    run = make_run("noise", [8, 6])
    append(run, '{"step": 20, "tokens": 20')
    assert read_run(run).curve.loss.tolist() == [8, 6]


def test_a_row_that_a_resumed_run_wrote_behind_a_torn_one_is_read(make_run):
    run = make_run("noise", [8, 6])
    append(run, '{"step": 20, "tok' + row(20, 5.0) + row(30, 4.0))
    assert read_run(run).curve.loss.tolist() == [8, 6, 5, 4]


def test_the_last_written_row_of_a_step_wins_after_a_resume(make_run):
    run = make_run("noise", [8, 6, 5, 4])
    append(run, row(10, 6.5) + row(20, 5.5))
    assert read_run(run).curve.loss.tolist() == [8, 6.5, 5.5, 4]


def test_training_rows_do_not_disturb_the_validation_curve(make_run):
    run = make_run("noise", [8, 6])
    append(run, json.dumps({"step": 10, "tokens": 1000, "flops": 1, "seconds": 1, "train/loss": 6.1}) + "\n")
    assert read_run(run).curve.loss.tolist() == [8, 6]


def test_a_missing_directory_is_a_checkpoint_error_that_names_it(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: expected a run directory") as caught:
        read_run(tmp_path / "nowhere")
    assert caught.value.exit_code == 77


def test_a_directory_without_run_json_is_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"run\.json: expected this file"):
        read_run(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"name": "a"}', '{"config": 1, "lineage": null, "name": "a"}'])
def test_a_run_json_of_another_shape_is_a_checkpoint_error_that_names_it(make_run, text):
    run = make_run("noise", [8, 6])
    (run / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"run\.json: expected"):
        read_run(run)


def test_a_damaged_growth_json_is_a_checkpoint_error_that_names_it(make_run, source):
    run = make_run("grown", [5, 4], growth="hyperclone", source=source)
    (run / "growth.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"growth\.json"):
        read_run(run)


def test_metrics_that_are_missing_are_a_data_error(make_run):
    run = make_run("noise", [8, 6])
    (run / "metrics.jsonl").unlink()
    with pytest.raises(DataError, match="expected the run's metrics") as caught:
        read_run(run)
    assert caught.value.exit_code == 77


def test_metrics_without_validations_are_a_data_error_that_says_what_to_do(make_run):
    run = make_run("noise", [8, 6])
    (run / "metrics.jsonl").write_text('{"step": 1, "train/loss": 8.0}\n')
    with pytest.raises(DataError, match=r"found none.*trainer\.val_every_tokens"):
        read_run(run)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("garbage\n", "line 3"),
        ("[1]\n", "line 3"),
        (row(20, 5.0, seconds=None), "seconds"),
        (row(20, float("nan")), "val/loss"),
    ],
)
def test_a_damaged_line_that_is_not_the_last_is_a_data_error_that_names_it(make_run, line, found):
    run = make_run("noise", [8, 6])
    append(run, line + row(30, 4.0))
    with pytest.raises(DataError, match=found):
        read_run(run)


def test_a_curve_without_its_beginning_is_a_data_error(make_run):
    run = make_run("noise", [8, 6])
    (run / "metrics.jsonl").write_text(row(10, 6.0))
    with pytest.raises(DataError, match="first validation at tokens=0"):
        read_run(run)


def test_labels_say_how_a_run_started(make_run, source):
    assert read_run(make_run("a", [8, 6])).label == FROM_NOISE
    assert read_run(make_run("b", [8, 6], growth="identity", source=source)).label == SOURCE_TRAINED_FURTHER
    assert read_run(make_run("c", [8, 6], growth="hyperclone", source=source)).label == "hyperclone"


def test_seeds_of_one_recipe_are_one_arm_with_their_mean_curve(make_run, source):
    paths = [
        str(make_run(f"s{seed}", [6, 4 + seed], growth="hyperclone", source=source, seed=seed)) for seed in range(3)
    ]
    (arm,) = read_arms(paths)
    assert (arm.label, len(arm.runs)) == ("hyperclone", 3)
    assert arm.curve.loss.tolist() == [6, 5]
    assert arm.source_cost("tokens") == 500


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(make_run):
    one = make_run("one", [8, 6])
    other = make_run("other", [8, 5], seed=1, config={"optimizer": {"name": "adamw", "lr": 0.01}})
    assert [arm.label for arm in read_arms([one, other])] == [
        "from noise (optimizer.lr=0.001)",
        "from noise (optimizer.lr=0.01)",
    ]


def test_seeds_computed_in_two_ways_are_one_arm(make_run):
    small = {"strategy": {"kind": "zero2"}, "trainer": {"micro_batch": 4, "max_tokens": 8}}
    large = {"strategy": {"kind": "ddp"}, "trainer": {"micro_batch": 8, "max_tokens": 8}}
    runs = [make_run("a", [8.0, 6.0], seed=0, config=small), make_run("b", [8.0, 6.0], seed=1, config=large)]
    (arm,) = read_arms([str(run) for run in runs])
    assert len(arm.runs) == 2


def test_one_unknown_source_makes_the_arms_source_cost_unknown(make_run, source, unknown_source):
    known = make_run("known", [6, 4], growth="hyperclone", source=source)
    unknown = make_run("unknown", [6, 4], growth="hyperclone", source=unknown_source | {"tokens": 500}, seed=1)
    (arm,) = read_arms([known, unknown])
    assert (arm.source_cost("tokens"), arm.source_cost("flops")) == (500, None)


def test_a_grown_run_is_refused_as_the_baseline_from_noise(make_run, source):
    grown = make_run("grown", [5, 4], growth="hyperclone", source=source)
    with pytest.raises(ConfigError, match="expected a run 'from noise', found one of 'hyperclone'"):
        read_baseline("baseline", [grown], FROM_NOISE)


def test_a_baseline_of_two_recipes_is_refused(make_run):
    other = make_run("other", [8, 5], config={"optimizer": {"name": "adamw", "lr": 0.01}})
    with pytest.raises(ConfigError, match=r"seeds of one recipe.*optimizer\.lr=0\.01"):
        read_baseline("baseline", [make_run("one", [8, 6]), other], FROM_NOISE)


def test_the_averaged_curve_has_the_points_of_the_live_one_and_nan_where_there_was_no_average(make_run):
    run = make_run("noise", [8, 6])
    append(run, row(20, 5.0, **{"val_avg/loss": 4.5}))
    assert np.array_equal(read_run(run).curve.averaged, [np.nan, np.nan, 4.5], equal_nan=True)
    assert read_run(run).curve.final_averaged == 4.5


def test_a_run_without_averages_has_no_averaged_loss(make_run):
    curve = read_run(make_run("noise", [8, 6])).curve
    assert np.isnan(curve.averaged).all()
    assert curve.final_averaged is None


def test_an_averaged_loss_that_is_not_finite_is_a_data_error(make_run):
    run = make_run("noise", [8, 6])
    append(run, row(20, 5.0, **{"val_avg/loss": float("nan")}) + row(30, 4.0))
    with pytest.raises(DataError, match="val_avg/loss"):
        read_run(run)


def test_the_averaged_losses_of_seeds_are_averaged_at_the_points_that_all_have(make_run):
    paths = [make_run(f"s{seed}", [6, 4], seed=seed) for seed in range(2)]
    append(paths[0], row(15, 3.9, **{"val_avg/loss": 9.0}))
    for path, loss in zip(paths, (3.0, 4.0), strict=True):
        append(path, row(20, 3.5, **{"val_avg/loss": loss}))
    (arm,) = read_arms(paths)
    assert arm.curve.tokens.tolist() == [0, 1000, 2000]
    assert arm.curve.final_averaged == 3.5
