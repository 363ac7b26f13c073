"""Runs of several processes, forked from this one, which has everything imported."""

import json
import time
from pathlib import Path

import pytest

from benchmarks.forks import kill, start_ranks, wait
from tests.training.tiny import command_line, make_shards
from tests.warm_server import import_everything


@pytest.fixture(scope="session")
def shards_dir(tmp_path_factory) -> Path:
    import_everything()
    import deepspeed.runtime.zero.muon.muon_optimizer  # with torch's compiler, which takes seconds

    assert deepspeed.ops.__compatible_ops__  # found once, with a C compiler
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def launch(shards_dir):
    """Return a function (run_dir, processes, *overrides) that starts a run and returns the process ids of its ranks."""

    def start(run_dir: Path, processes: int, *more: str) -> list[int]:
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        return start_ranks(processes, command_line(shards_dir, run_dir, *more), run_dir.parent / "log")

    return start


@pytest.fixture(scope="session")
def train(launch):
    """Return a function (run_dir, processes, *overrides) that trains to the end and returns the run directory."""

    def run(run_dir: Path, processes: int, *more: str) -> Path:
        codes = wait(launch(run_dir, processes, *more))
        assert codes == [0] * processes, (run_dir.parent / "log").read_text()[-4000:]
        return run_dir

    return run


@pytest.fixture(scope="session")
def rows():
    """Return a function that reads the rows of a run directory's metrics.jsonl."""
    return lambda run_dir: [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def stopped_at(launch):
    """Return a function (run_dir, processes, tokens, *overrides) that kills a run once it has logged so many tokens."""

    def run(run_dir: Path, processes: int, tokens: int, *more: str) -> Path:
        ranks = launch(run_dir, processes, *more)
        reached = 0
        while reached < tokens:
            lines = (run_dir / "metrics.jsonl").read_text().splitlines() if (run_dir / "metrics.jsonl").exists() else []
            reached = max((json.loads(line)["tokens"] for line in lines if line.endswith("}")), default=0)
            time.sleep(0.002)  # the ranks need the cores
        assert kill(ranks)
        wait(ranks)
        return run_dir

    return run
