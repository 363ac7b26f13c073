"""A run that is killed and started again under all three views, and the same run under none."""

import csv
import json
import sys

import pytest
import torch
from safetensors.torch import load_file

from grow.common import metric_names as names

ALL = ("logger.views=[csv,tensorboard,wandb]", "logger.mode=offline", "logger.tags=[mine]")
SECRETS = ("hush-hush", "whisper")


@pytest.fixture(scope="module")
def watched(train, killed, tmp_path_factory):
    """Killed in step 8, after the checkpoint of step 6; the second start continues from there."""
    run = tmp_path_factory.mktemp("runs") / "watched"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", f"hub.token={SECRETS[0]}", f"source=https://me:{SECRETS[1]}@host/x"])
        more = (*ALL, "trainer.log_every_steps=1", "checkpoint.every_tokens=768")
        killed(8, run, *more)
        return train(run, *more)


@pytest.fixture(scope="module")
def unwatched(train, tmp_path_factory):
    more = ("trainer.log_every_steps=1", "checkpoint.every_tokens=768")
    return train(tmp_path_factory.mktemp("runs") / "unwatched", *more)


@pytest.fixture(scope="module")
def starts(watched, wandb_records):
    return wandb_records(watched)


def items(records, kind):
    return [record[kind] for record in records if record["type"] == kind]


def history(starts):
    return [record["item"] for records in starts for record in items(records, "history")]


def untimed(row):
    return {name: value for name, value in row.items() if name not in ("seconds", names.TOKENS_PER_SEC)}


def test_rows_and_weights_are_the_same_with_views_and_without(watched, unwatched, rows):
    assert [untimed(row) for row in rows(watched)] == [untimed(row) for row in rows(unwatched)]
    first, second = (load_file(run / "model" / "model.safetensors") for run in (watched, unwatched))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_without_views_leaves_nothing_of_them(unwatched):
    assert not {"wandb", "wandb.json", "tensorboard", "metrics.csv"} & {path.name for path in unwatched.iterdir()}


def test_two_starts_of_a_run_are_one_wandb_run(starts, watched):
    ids = {record["run_id"] for records in starts for record in items(records, "run")}
    assert len(starts) == 2
    assert ids == {json.loads((watched / "wandb.json").read_text())["id"]}
    assert all(record["resume"] for records in starts for record in items(records, "run"))


def test_wandb_gets_every_row_once_and_in_order_across_a_restart(starts, watched, rows):
    found = history(starts)
    assert [record["_step"] for record in found] == list(range(len(rows(watched))))
    assert [record["train/tokens"] for record in found] == [row["tokens"] for row in rows(watched)]
    # rows that the first start wrote after its checkpoint were cut from the file, but W&B had them: not sent again
    assert history(starts[1:])[0]["_step"] == len(items(starts[0], "history"))
    for record, row in zip(found, rows(watched), strict=True):
        assert untimed(row).items() <= record.items()
        assert {"step", "tokens", "flops", "seconds"} <= record.keys()


def test_tokens_are_the_declared_axis_of_every_metric(starts):
    for records in starts:
        metrics = items(records, "metric")
        assert {"glob_name": "*", "step_metric": "train/tokens"}.items() <= metrics[-1].items()
        assert metrics[0]["name"] == "train/tokens"


def test_wandb_knows_the_configuration_the_lineage_the_group_and_the_tags(starts):
    config = {key: value for record in items(starts[1], "config") for key, value in record["update"].items()}
    assert config["model"]["name"] == "tiny"
    assert config["run"]["model"]["parameters"] > 0
    assert config["run"]["lineage"] is None
    (run,) = items(starts[1], "run")
    assert run["run_group"] == "tiny-noise"
    assert run["tags"] == ["tiny", "noise", "mine"]


def test_the_final_speeds_are_in_the_summary(starts, watched, rows):
    summary = {key: value for record in items(starts[1], "summary") for key, value in record["update"].items()}
    last = rows(watched)[-1]
    assert summary[names.MEAN_TOKENS_PER_SEC] == pytest.approx(last["tokens"] / last["seconds"])
    assert summary[names.MEAN_FLOPS_PER_SEC] == pytest.approx(last["flops"] / last["seconds"])


def test_wandb_records_that_the_first_start_failed_and_the_second_did_not(starts):
    assert [items(records, "exit")[0].get("exit_code", 0) for records in starts] == [1, 0]


def test_no_secret_of_the_command_line_is_in_any_file_of_the_run(watched, starts):
    (environment, *_) = items(starts[0], "environment")
    assert environment["args"] == ["hub.token=***", "source=https://***@host/x"]
    files = [path for path in watched.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if any(secret.encode() in path.read_bytes() for secret in SECRETS)]


def test_csv_has_every_row_and_every_column(watched, rows):
    with (watched / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    expected = rows(watched)
    assert [{name: float(value) for name, value in line.items() if value} for line in table] == expected
    assert set(table[0]) == {name for row in expected for name in row}


def test_tensorboard_has_every_number_once_over_tokens(watched, rows):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(watched / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    for name in (names.TRAIN_LOSS, names.VAL_LOSS, "flops"):
        expected = [(row["tokens"], row[name]) for row in rows(watched) if name in row]
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(tokens, pytest.approx(value, rel=1e-6)) for tokens, value in expected]


def test_a_run_may_continue_under_another_logger_and_the_new_view_gets_its_old_rows(killed, train, rows, tmp_path):
    run = killed(6, tmp_path / "run")
    train(run, "logger=csv")
    with (run / "metrics.csv").open(newline="") as file:
        assert [int(line["tokens"]) for line in csv.DictReader(file)] == [row["tokens"] for row in rows(run)]
