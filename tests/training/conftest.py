"""Tiny shards, one call that trains on them as train.py does, and runs that many tests read."""

import json
from pathlib import Path

import pytest
import torch

from grow.data.shards import TokenShards
from tests.training.tiny import in_process, make_shards


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shards_dir(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def shards(shards_dir) -> TokenShards:
    return TokenShards.open(shards_dir)


@pytest.fixture
def train(shards_dir):
    """(run_dir, *more) -> the run directory, after train.py's task ran in this process."""
    return in_process(shards_dir)


@pytest.fixture(scope="session")
def trained_once(shards_dir, tmp_path_factory):
    """(*more) -> a finished run, trained for the first test that asks for it. Not to be changed: copy it to do so."""
    done, train = {}, in_process(shards_dir)

    def run(*more: str) -> Path:
        if more not in done:
            done[more] = train(tmp_path_factory.mktemp("trained") / "run", *more)
        return done[more]

    return run


@pytest.fixture
def rows():
    """run directory -> rows of its metrics.jsonl."""
    return lambda run_dir: [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
