"""Fixtures that train tiny runs in this process, kill them, and read back offline W&B files without a network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from grow.training.step.module import PretrainModule
from tests.training.tiny import in_process, make_shards


@pytest.fixture(scope="session")
def train(tmp_path_factory):
    """Return a function (run_dir, *more) that runs train.py's task in this process and returns the run directory."""
    return in_process(make_shards(tmp_path_factory.mktemp("shards")))


@pytest.fixture(scope="session")
def killed(train):
    """Return a function (step, run_dir, *more) that trains until that step fails, and returns the run directory."""

    def run(step: int, run_dir: Path, *more: str) -> Path:
        def training_step(self, batch, batch_idx):
            if self.clock.tokens == (step - 1) * self.clock.tokens_per_step:
                raise RuntimeError("killed")
            return original(self, batch, batch_idx)

        original = PretrainModule.training_step
        with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
            patch.setattr(PretrainModule, "training_step", training_step)
            train(run_dir, *more)
        return run_dir

    return run


@pytest.fixture(scope="session")
def rows():
    """Return a function that reads the rows of a run directory's metrics.jsonl."""
    return lambda run_dir: [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def wandb_records():
    """Return a function that reads the records of each offline W&B directory of a run, oldest first."""

    def read(run_dir: Path) -> list[list[dict]]:
        tool = Path(sys.executable).with_name("wandb")
        found = []
        for directory in sorted((run_dir / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime):
            done = subprocess.run([tool, "leet", "inspect", "--json", directory], capture_output=True, check=True)
            found.append([json.loads(line) for line in done.stdout.splitlines()])
        return found

    return read
