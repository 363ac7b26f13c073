"""Races: starts that lose one, directories that are moved while another process waits, locks that a kill releases."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from grow.common.errors import CheckpointError, ConfigError
from grow.common.files import continued_directory
from grow.common.locks import LockHeldError, lock
from grow.training.run_directory import RunDirectory
from tests.training.tiny import in_process, make_shards


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """(run_dir, *more) -> the run directory, after train.py's task ran in this process."""
    return in_process(make_shards(tmp_path_factory.mktemp("shards")))


@pytest.fixture(scope="module")
def finished(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("finished") / "run")


@contextmanager
def elsewhere(path, body="sys.stdin.read()"):
    """Hold the lock of a file in another process for the length of a block."""
    code = (
        f"import sys; from grow.common.locks import *; f = lock(Path({str(path)!r})); print('held', flush=True); {body}"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def meanwhile(monkeypatch, happens):
    """Let something happen between a start's first look at the directory and the moment when it has the lock."""
    original = RunDirectory._locked

    def locked(self):
        happens()
        monkeypatch.setattr(RunDirectory, "_locked", original)
        return original(self)

    monkeypatch.setattr(RunDirectory, "_locked", locked)


def test_a_start_that_loses_a_race_leaves_the_run_that_was_finished_meanwhile(
    train, finished, tmp_path, monkeypatch, capsys
):
    run = tmp_path / "run"
    meanwhile(monkeypatch, lambda: shutil.copytree(finished, run))
    train(run)
    assert f"{run} is finished" in capsys.readouterr().out
    for name in ("metrics.jsonl", "run.json", "model/model.safetensors"):
        assert (run / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_start_that_loses_a_race_to_another_configuration_is_refused(train, finished, tmp_path, monkeypatch):
    run = tmp_path / "run"

    def other_run():
        shutil.copytree(finished, run)
        shutil.rmtree(run / "model")

    meanwhile(monkeypatch, other_run)
    with pytest.raises(ConfigError, match="seed: 0 there, 1 here"):
        train(run, "seed=1")


@pytest.mark.parametrize("before", [None, "empty", "notes.txt"])
def test_a_failed_start_removes_the_directory_that_it_made_and_no_other(tmp_path, before):
    run = tmp_path / "run"
    if before:
        run.mkdir()
    if before == "notes.txt":
        (run / before).touch()
    with pytest.raises(ConfigError), RunDirectory(run).entered({}, "exact"):
        raise ConfigError("the data is missing")
    assert run.exists() == bool(before)
    assert (run / "notes.txt").exists() == (before == "notes.txt")


def test_two_fresh_starts_do_not_move_each_others_run(train, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    with elsewhere(run / ".lock"), pytest.raises(ConfigError, match="another process trains in this directory"):
        train(run, "resume=fresh")
    assert run.is_dir() and not list(tmp_path.glob("run.before-*"))


def test_a_lock_is_refused_to_others_and_to_this_process_and_names_its_holder(tmp_path):
    with lock(tmp_path / "lock") as file:
        file.write("process 1 on earth")
        file.flush()
        with pytest.raises(LockHeldError, match="process 1 on earth"):
            lock(tmp_path / "lock")
        (tmp_path / "lock").open().close()  # would release a lock of lockf
        with pytest.raises(LockHeldError):
            lock(tmp_path / "lock")
    lock(tmp_path / "lock").close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_killed_process_is_gone_with_it(tmp_path, number):
    with elsewhere(tmp_path / "lock") as process:
        with pytest.raises(LockHeldError):
            lock(tmp_path / "lock")
        os.kill(process.pid, number)
        process.wait()
        lock(tmp_path / "lock").close()


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_whoever_opened_a_lock_before_it_went_away_locks_the_one_that_is_there_now(tmp_path, monkeypatch, how):
    path, opened = tmp_path / "lock", []
    original = Path.open

    def open_and_lose(self, *arguments):
        file = original(self, *arguments)
        if not opened:
            opened.append(file)
            if how == "moved":
                path.rename(tmp_path / "elsewhere")
            else:
                path.unlink()
            if how == "replaced":
                path.touch()
        return file

    monkeypatch.setattr(Path, "open", open_and_lose)
    with lock(path), pytest.raises(LockHeldError):
        lock(path)
    assert opened[0].closed


def test_two_makers_of_one_directory_do_not_meet(tmp_path):
    with (
        continued_directory(tmp_path / "out", 1, "progress.json") as partial,
        pytest.raises(CheckpointError, match="another process is making it"),
        continued_directory(tmp_path / "out", 1, "progress.json"),
    ):
        pass
    assert partial.name == ".out.partial" and (tmp_path / "out").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_waiting_for_a_lock_ends_when_its_holder_does(tmp_path):
    with elsewhere(tmp_path / "lock", "import time; time.sleep(0.3)"):
        lock(tmp_path / "lock", wait=True).close()


def test_run_json_of_the_first_start_is_what_a_continued_run_keeps(train, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "model")
    started = json.loads((run / "run.json").read_text())["started"]
    train(run)
    assert json.loads((run / "run.json").read_text())["started"] == started
