"""Faults of one rank: a gradient that is not finite, a rank that hangs."""

import itertools
import json
import math
import os
import time

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from benchmarks.forks import wait
from grow.averaging import average
from grow.common import metric_names as names
from grow.training.step.module import PretrainModule

pytestmark = pytest.mark.slow

ROWS = ("trainer.log_every_steps=1", "trainer.micro_batch=1")


@pytest.fixture
def damage(monkeypatch):
    """Return a function (steps) that makes the last rank's losses in these steps NaN."""

    def arrange(steps):
        original = PretrainModule._training_loss

        def loss(self, batch):
            is_damaged = self.training and self.clock.step + 1 in steps
            is_last = not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1
            return original(self, batch) * (math.nan if is_damaged and is_last else 1)

        monkeypatch.setattr(PretrainModule, "_training_loss", loss)

    return arrange


@pytest.mark.parametrize(
    ("strategy", "processes"), [("single", 1), ("ddp", 2), ("zero2", 2), ("zero3", 2), ("fsdp2", 2)]
)
def test_a_step_without_a_finite_gradient_is_skipped_by_all_ranks(train, rows, tmp_path, damage, strategy, processes):
    damage({4})
    run = train(tmp_path / "run", processes, *ROWS, f"strategy={strategy}")
    by_step = {row["step"]: row for row in rows(run) if names.LEARNING_RATE in row}
    assert names.SKIPPED_STEPS not in by_step[3]
    assert by_step[4][names.SKIPPED_STEPS] == by_step[10][names.SKIPPED_STEPS] == 1
    assert names.GRAD_NORM not in by_step[4]
    assert by_step[10]["tokens"] == 1280
    assert all(tensor.isfinite().all() for tensor in load_file(run / "model" / "model.safetensors").values())
    state = json.loads((run / "checkpoints" / "step-00000010" / "state.json").read_text())
    assert (state["step"], state["updates"], state["skipped"]) == (10, 9, 1)
    assert "step 4 skipped" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_too_many_in_a_row_end_the_run_on_every_rank_with_76_and_a_report(launch, tmp_path, damage, strategy):
    damage({2, 4, 5, 6, 7, 8})
    more = (*ROWS, f"strategy={strategy}", "trainer.max_skipped_steps=3")
    assert wait(launch(tmp_path / "run", 2, *more)) == [76, 76]
    report = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert report["skipped_in_all"] == 4
    assert [step["step"] for step in report["steps"]] == [4, 5, 6]
    assert report["steps"][0]["first_sequence"] == 3 * 128 // 16


def test_a_rank_that_hangs_ends_the_run_and_every_rank_says_where_it_was(launch, tmp_path, monkeypatch):
    original = PretrainModule.training_step

    def training_step(self, batch, batch_idx):
        if self.clock.step == 3 and dist.get_rank() == 1:
            time.sleep(600)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(PretrainModule, "training_step", training_step)
    started = time.monotonic()
    codes = wait(launch(tmp_path / "run", 2, *ROWS, "strategy=ddp", "strategy.timeout_s=4"))
    assert all(code != 0 for code in codes)
    assert time.monotonic() - started < 300
    log = (tmp_path / "log").read_text()
    assert "has stood still for" in log and "step 4" in log
    stuck = (tmp_path / "run" / "hangs" / "rank-00001.txt").read_text()
    assert "training_step" in stuck
    assert (tmp_path / "run" / "hangs" / "rank-00000.txt").exists() or "Connection" in log


def test_a_snapshot_that_one_rank_cannot_average_is_left_out_by_all(train, tmp_path, monkeypatch):
    """Unequal windows would be averaged by another number of collectives on each rank, which hangs."""
    pushes = itertools.count()
    monkeypatch.setattr(average, "finite", lambda _: torch.tensor(next(pushes) != 1 or os.environ["RANK"] == "0"))
    lawa = ("averaging=lawa", "averaging.k=2", "averaging.every_steps=2", "averaging.start_tokens=0")
    run = train(tmp_path / "run", 2, "strategy=ddp", *lawa, "checkpoint.keep_last=9")
    checkpoint = run / "checkpoints" / "step-00000006"
    assert json.loads((checkpoint / "state.json").read_text())["average"]["skipped"] == 1
    windows = [{key.split("/")[0] for key in load_file(file)} for file in sorted(checkpoint.glob("average-*"))]
    assert windows == [{"snapshot-2", "snapshot-6"}] * 2  # rank 1 could not take step 4's
