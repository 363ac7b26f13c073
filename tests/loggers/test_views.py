"""Views one by one: what fails, what is refused, what is hidden."""

import dataclasses
import json

import pytest

from grow.cli.config import compose
from grow.common.clock import Clock
from grow.common.errors import ConfigError
from grow.common.redact import redacted
from grow.loggers.settings import LoggerSettings
from grow.loggers.views import Views, open_views
from grow.loggers.wandb_run import SentRows
from grow.training.loop.metrics import MetricsFile


class Recorder:
    """A view that records the steps it is shown, and fails after `fails_at` of them."""

    def __init__(self, fails_at=None):
        self.numbers, self.closed, self._fails_at = [], [], fails_at

    def start(self, record):
        self.numbers.clear()

    def write(self, row):
        if len(self.numbers) == self._fails_at:
            raise OSError("the line is dead")
        self.numbers.append(row["step"])

    def close(self, summary, *, failed):
        self.closed.append((summary, failed))


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"config": {}, "started": "2026-01-01T00:00:00+00:00"}))
    return tmp_path


def write_rows(run, views, count):
    clock = Clock(tokens_per_step=10, flops_per_token=6)
    rows = MetricsFile(run / "metrics.jsonl", views=views)
    for _ in range(count):
        clock.advance()
        rows.write(clock, {"val/loss": 1.0})
    rows.close()
    return (run / "metrics.jsonl").read_text().splitlines()


def test_a_view_that_fails_is_dropped_with_one_warning_and_the_others_continue(run, capsys):
    broken, sound = Recorder(fails_at=2), Recorder()
    views = Views(run, {"broken": broken, "sound": sound})
    assert len(write_rows(run, views, 5)) == 5
    views.close(failed=False)
    assert (broken.numbers, broken.closed) == ([1, 2], [])
    assert (sound.numbers, len(sound.closed)) == ([1, 2, 3, 4, 5], 1)
    assert capsys.readouterr().out.count("the broken view stopped working") == 1


def test_a_view_that_cannot_start_or_close_stops_nothing(run, capsys):
    views = Views(run, {"none": None, "all": Recorder()})
    assert len(write_rows(run, views, 1)) == 1
    views._views["late"] = None
    views.close(failed=True)
    assert capsys.readouterr().out.count("warning: the") == 2


def test_rows_that_are_kept_are_shown_again_and_those_that_are_cut_are_not(run):
    lines = write_rows(run, None, 4)
    kept = sum(len(line) + 1 for line in lines[:3])
    view = Recorder()
    MetricsFile(run / "metrics.jsonl", kept, Views(run, {"view": view})).close()
    assert view.numbers == [1, 2, 3]


def test_only_the_first_rank_opens_views(tmp_path):
    settings = LoggerSettings(name="test", views=["csv", "tensorboard", "wandb"])
    with open_views(settings, tmp_path / "run", shown=False) as views:
        write_rows(tmp_path, views, 1)
    assert not (tmp_path / "run").exists()


def test_wandb_that_is_not_logged_in_is_refused_before_anything_trains(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    settings = LoggerSettings(name="wandb", views=["wandb"])
    with (
        pytest.raises(ConfigError, match=r"no API key was found.*wandb_offline"),
        open_views(settings, tmp_path / "run", shown=True),
    ):
        pass


def test_wandb_that_cannot_be_reached_is_refused_before_anything_trains(tmp_path, monkeypatch):
    import wandb

    def unreachable(**settings):
        raise wandb.errors.CommError("no such host")

    monkeypatch.setattr(wandb, "init", unreachable)
    monkeypatch.setattr(wandb, "login", lambda prompt: True)
    settings = LoggerSettings(name="wandb", views=["wandb"])
    with (
        pytest.raises(ConfigError, match=r"no such host.*check the network"),
        open_views(settings, tmp_path / "run", shown=True),
    ):
        pass


def test_no_row_is_sent_to_wandb_twice_even_where_a_second_start_has_rows_at_other_tokens():
    sent = SentRows(id="a")
    first = [{"tokens": 0, "val/loss": 1}, {"tokens": 20, "train/loss": 1}, {"tokens": 20, "val/loss": 1}]
    for row in first:
        assert not sent.has(row)
        sent.add(row)
    sent = SentRows(**json.loads(json.dumps(dataclasses.asdict(sent))))
    assert all(sent.has(row) for row in [*first, {"tokens": 10, "train/loss": 1}])
    assert not sent.has({"tokens": 30, "train/loss": 1})
    assert sent.rows == 3


def test_the_second_of_two_rows_at_the_same_tokens_is_sent_after_a_kill_between_them():
    sent = SentRows(id="a")
    sent.add({"tokens": 20, "train/loss": 1})
    assert sent.has({"tokens": 20, "train/loss": 1})
    assert not sent.has({"tokens": 20, "val/loss": 1})


def test_rows_that_never_reached_wandbs_server_are_sent_again():
    sent = SentRows(id="a", rows=5, tokens=50, columns=["tokens", "train/loss"])
    sent.correct(step=3, tokens=30)
    assert [sent.has({"tokens": tokens, "train/loss": 1}) for tokens in (30, 40, 50)] == [True, False, False]
    assert sent.rows == 5  # steps of W&B only rise
    sent.correct(step=0, tokens=None)
    assert not sent.has({"tokens": 0, "val/loss": 1})


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["logger=wandbx"], "Did you mean wandb"),
        (["logger.views=[csv,html]"], "csv, tensorboard, wandb"),
        (["logger.views=[csv,csv]"], "at most once"),
        (["logger=wandb", "logger.mode=later"], "online, offline"),
    ],
)
def test_a_wrong_logger_is_one_paragraph(overrides, match):
    with pytest.raises(ConfigError, match=match):
        compose(overrides)


def test_the_logger_does_not_change_which_run_it_is():
    assert compose(["logger=wandb", "logger.tags=[a]"]).directory == compose([]).directory


def test_group_and_tags_name_the_recipe_unless_they_are_given():
    grown = compose(["growth=hyperclone", "growth.source=x", "model=tiny_2x"]).labelled_logger
    assert (grown.group, grown.tags) == ("tiny_2x-hyperclone", ["tiny_2x", "hyperclone"])
    given = compose(["logger.group=mine", "logger.tags=[a,tiny]"]).labelled_logger
    assert (given.group, given.tags) == ("mine", ["tiny", "noise", "a"])


@pytest.mark.parametrize(
    "argument",
    ["trainer.max_tokens=5", "trainer.tokens_per_step=4096", "optimizer.name=keyed", "data.path=a/b", "--cfg"],
)
def test_what_is_no_secret_is_left_alone(argument):
    assert redacted(argument) == argument


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("+hub.token=abc", "+hub.token=***"),
        ("logger.api_key=abc", "logger.api_key=***"),
        ("--password=abc", "--password=***"),
        ("data.path=https://me:abc@host/x", "data.path=https://***@host/x"),
        ("growth.source=hf_abcdefghijklmnop", "growth.source=***"),
    ],
)
def test_secrets_are_hidden_by_key_by_place_and_by_shape(argument, expected):
    assert redacted(argument) == expected


def test_secrets_are_hidden_at_any_depth_of_a_configuration():
    config = {
        "a": {"api_key": "abc", "eos_token": 3},
        "b": ["x", "hub.token=abc", {"password": "abc"}],
        "max_tokens": 5,
        "url": "s3://id:abc@host",
    }
    assert redacted(config) == {
        "a": {"api_key": "***", "eos_token": 3},
        "b": ["x", "hub.token=***", {"password": "***"}],
        "max_tokens": 5,
        "url": "s3://***@host",
    }
