"""Several ranks: the first alone has views, and the W&B run is finished before the process group ends the process."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.training.tiny import command_line, make_shards
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_ranks_are_one_wandb_run_that_is_finished(tmp_path, wandb_records):
    (tmp_path / "shards").mkdir()
    run = tmp_path / "run"
    arguments = command_line(make_shards(tmp_path / "shards"), run, "strategy=ddp", "logger=wandb_offline")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [warm_python(), *launcher, "train.py", *arguments], cwd=ROOT, env=environment, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (records,) = wandb_records(run)
    rows = (run / "metrics.jsonl").read_text().splitlines()
    assert len([record for record in records if record["type"] == "history"]) == len(rows)
    assert records[-1]["type"] == "exit"
