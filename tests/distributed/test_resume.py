"""Runs that signals or SIGKILL stop continue to the same weights, also on other numbers of ranks."""

import json
import os
import shutil
import signal
import time

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from benchmarks.chaos import kill_and_continue
from benchmarks.chaos_commands import COMMANDS, kill_and_repeat
from benchmarks.forks import kill, wait
from grow.common import metric_names as names
from grow.training.checkpoints import integrity
from grow.training.checkpoints.checkpoint_reader import Checkpoint, newest_checkpoint
from tests.training.tiny import command_line

pytestmark = pytest.mark.slow

SLOW = ("trainer.max_tokens=3840", "trainer.micro_batch=1", "trainer.log_every_steps=1", "checkpoint.every_tokens=640")


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def wait_for_tokens(run, tokens):
    """Wait until the run has logged so many tokens."""
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or f'"tokens": {tokens},' not in metrics.read_text():
        time.sleep(0.002)  # the ranks need the cores


@pytest.fixture(scope="module")
def quiet(train, tmp_path_factory):
    """(strategy) -> a run of two processes that nobody disturbed."""
    done = {}

    def of(strategy):
        if strategy not in done:
            directory = tmp_path_factory.mktemp(strategy)
            done[strategy] = train(directory / "run", 2, *SLOW, f"strategy={strategy}")
        return done[strategy]

    return of


@pytest.mark.parametrize(
    ("strategy", "number"),
    [("ddp", signal.SIGTERM), ("zero2", signal.SIGUSR1), ("zero3", signal.SIGUSR2), ("fsdp2", signal.SIGUSR1)],
)
def test_a_signal_to_one_rank_stops_all_at_one_step_and_the_run_continues_to_the_same_bits(
    launch, train, quiet, tmp_path, strategy, number
):
    run = tmp_path / "run"
    ranks = launch(run, 2, *SLOW, f"strategy={strategy}")
    wait_for_tokens(run, 640)
    assert kill(ranks[1:], number)
    assert wait(ranks) == [75, 75]
    checkpoint, skipped = newest_checkpoint(run / "checkpoints")
    assert skipped == []
    assert checkpoint.state.kind == "preemption"
    assert checkpoint.state.tokens < 3840
    train(run, 2, *SLOW, f"strategy={strategy}")
    assert not [path for path in (run / "checkpoints").iterdir() if Checkpoint(path).state.kind == "preemption"]
    for name, tensor in weights(quiet(strategy)).items():
        assert_close(weights(run)[name], tensor, rtol=0, atol=0, msg=name)


def test_a_run_continues_with_one_and_then_four_processes_over_the_same_data(launch, train, quiet, rows, tmp_path):
    run = tmp_path / "run"
    for processes, strategy, tokens in ((2, "zero2", 1280), (1, "zero2", 2048), (4, "zero1", None)):
        ranks = launch(run, processes, *SLOW, f"strategy={strategy}")
        if tokens is not None:
            wait_for_tokens(run, tokens)
            assert kill(ranks, signal.SIGTERM)
        assert wait(ranks) == [0 if tokens is None else 75] * processes, (tmp_path / "log").read_text()[-3000:]
    changed = json.loads((run / "run.json").read_text())["changes"]
    assert "strategy.kind: 'zero2' there, 'zero1' here" in changed[-1]["keys"]
    loss = [row[names.TRAIN_LOSS] for row in rows(run) if names.TRAIN_LOSS in row]
    expected = [row[names.TRAIN_LOSS] for row in rows(quiet("zero2")) if names.TRAIN_LOSS in row]
    assert loss == pytest.approx(expected, abs=1e-4)
    for name, tensor in weights(quiet("zero2")).items():
        assert_close(weights(run)[name], tensor, rtol=1e-3, atol=2e-5, msg=name)


def test_all_ranks_end_with_77_where_no_checkpoint_is_whole_and_with_0_where_the_run_is_finished(
    launch, quiet, tmp_path
):
    run = shutil.copytree(quiet("ddp"), tmp_path / "run")
    assert wait(launch(run, 2, *SLOW, "strategy=ddp")) == [0, 0]
    assert (tmp_path / "log").read_text().count("is finished") == 1
    shutil.rmtree(run / "model")
    for step in (run / "checkpoints").iterdir():
        (step / "config.json").unlink()
    assert wait(launch(run, 2, *SLOW, "strategy=ddp")) == [77, 77]
    assert (tmp_path / "log").read_text().count("config.json is missing") >= 2


def test_each_rank_compares_a_share_of_a_checkpoints_files_with_their_digests(train, quiet, tmp_path, monkeypatch):
    run, notes = shutil.copytree(quiet("zero2"), tmp_path / "run"), tmp_path / "notes"
    shutil.rmtree(run / "model")
    (newest, *_) = sorted((run / "checkpoints").iterdir(), reverse=True)
    original = integrity.digest_like

    def note(expected, path, threads):
        with notes.open("a") as file:
            file.write(f"{os.environ['RANK']} {path.name}\n")
        return original(expected, path, threads)

    monkeypatch.setattr(integrity, "digest_like", note)
    train(run, 2, *SLOW, "strategy=zero2")
    lines = [line.split() for line in notes.read_text().splitlines()]
    assert sorted(name for _, name in lines) == sorted(json.loads((newest / "COMPLETE.json").read_text()))
    assert {rank for rank, _ in lines} == {"0", "1"}


def test_lost_moments_would_exceed_the_tolerance(train, quiet, tmp_path, monkeypatch):
    """The tolerance of the test above is tight enough to notice them."""
    run = shutil.copytree(quiet("zero2"), tmp_path / "run")
    shutil.rmtree(run / "model")
    for path in sorted((run / "checkpoints").iterdir())[1:]:
        shutil.rmtree(path)
    monkeypatch.setattr(Checkpoint, "restore_optimizer", lambda *arguments: None)
    train(run, 2, *SLOW, "strategy=zero2")
    worst = max((weights(run)[name] - tensor).abs().max().item() for name, tensor in weights(quiet("zero2")).items())
    assert worst > 1e-3


def test_a_second_process_on_the_same_run_directory_is_refused(launch, tmp_path):
    run = tmp_path / "run"
    first = launch(run, 1, "trainer.max_tokens=1280000")
    wait_for_tokens(run, 1280)
    assert wait(launch(run, 1, "trainer.max_tokens=1280000")) == [2]
    assert f"another process trains in this directory (process {first[0]} on " in (tmp_path / "log").read_text()
    assert kill(first)
    wait(first)
    second = launch(run, 1, "trainer.max_tokens=1280000")  # whoever was killed keeps nobody out
    wait_for_tokens(run, 6400)
    assert kill(second)
    wait(second)


@pytest.mark.parametrize(
    ("processes", "kills", "in_save", "more"),
    [(1, 8, False, ()), (1, 6, True, ()), (2, 2, False, ("strategy=zero2",))],
    ids=["anywhere", "inside a save", "two ranks under ZeRO-2"],
)
def test_sigkill_never_changes_where_a_run_ends(shards_dir, tmp_path, processes, kills, in_save, more):
    overrides = [item for item in command_line(shards_dir, tmp_path, *SLOW, *more) if not item.startswith("run_dir")]
    outcome = kill_and_continue(tmp_path, overrides, kills=kills, processes=processes, in_save=in_save, seed=1)
    assert outcome.kills >= kills
    assert outcome.equal == outcome.runs >= 1


def test_a_killed_command_makes_the_same_bytes_when_it_is_run_again_and_leaves_nothing_else(tmp_path):
    outcome = kill_and_repeat(tmp_path, list(COMMANDS), kills=8, seed=1)
    assert outcome.kills >= 8
    assert outcome.equal == outcome.runs >= 2
