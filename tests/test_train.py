"""train.py as a command: its exit codes, and ranks that agree with one process. More in tests/cli/test_start.py."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from tests.training.tiny import command_line, make_shards
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
HEAVY = ("torch", "lightning", "transformers", "deepspeed")
ONE_OF_TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    """Return a function (run_dir, *more) that returns the command line of a tiny run."""
    shards_dir = make_shards(tmp_path_factory.mktemp("shards"))
    return lambda run_dir, *more: command_line(shards_dir, run_dir, *more)


def command(*arguments: str, python: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python or warm_python(), *arguments],
        cwd=ROOT,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=150,
    )


def without_heavy_imports(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run train.py in an interpreter that fails on the first heavy import."""
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in HEAVY)
    argv = ["train.py", *arguments]
    code = f"import runpy, sys; {blocked}sys.argv = {argv!r}; runpy.run_path('train.py', run_name='__main__')"
    return command("-c", code, python=sys.executable, **environment)


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (("trainer.val_tokens=5",), {}, "at least one sequence"),
        (("strategy=ddp", "trainer.tokens_per_step=2048"), ONE_OF_TWO, "x ranks = 8 x 256 x 2"),
        ((), ONE_OF_TWO, "strategy=single is for one process"),
    ],
)
def test_processes_and_batches_that_do_not_fit_exit_with_2_without_heavy_imports(arguments, environment, says):
    answer = without_heavy_imports(*arguments, **environment)
    assert answer.returncode == 2
    assert says in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_run_directory_answers_for_itself_without_heavy_imports(tmp_path):
    (tmp_path / "model").mkdir()
    answer = without_heavy_imports(f"run_dir={tmp_path}")
    assert answer.returncode == 0
    assert "is finished" in answer.stdout
    (tmp_path / "run.json").write_text(json.dumps({"config": {"seed": 1}}))
    answer = without_heavy_imports(f"run_dir={tmp_path}")
    assert answer.returncode == 2
    assert "seed: 1 there, 0 here" in answer.stderr


@pytest.mark.slow
def test_a_missing_data_directory_exits_with_77_and_one_paragraph(tmp_path):
    answer = command("train.py", "data=shards", f"data.path={tmp_path}/none", "data.sequence_length=16")
    assert answer.returncode == 77
    assert answer.stderr.startswith("DataError")
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
def test_a_diverged_run_exits_with_76(overrides, tmp_path):
    more = ("optimizer.lr=1e18", "optimizer.max_grad_norm=0", "schedule.warmup_tokens=0", "trainer.max_skipped_steps=2")
    answer = command("train.py", *overrides(tmp_path / "run", *more))
    assert answer.returncode == 76
    assert answer.stderr.startswith("DivergedError: the gradient was not finite in 2 steps in a row, the last of them")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "says"),
    [(signal.SIGINT, 130, "The same command continues"), (signal.SIGTERM, 75, "stopped by SIGTERM")],
)
def test_a_stopped_run_exits_with_its_code_and_says_how_to_continue(overrides, tmp_path, sent, code, says):
    arguments = overrides(tmp_path / "run", "trainer.max_tokens=12800000", "checkpoint.every_tokens=1280")
    process = subprocess.Popen(
        [warm_python(), "train.py", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("run/checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert says in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.slow
def test_two_ranks_under_torchrun_equal_one_process(overrides, tmp_path):
    one = command("train.py", *overrides(tmp_path / "one"))
    assert one.returncode == 0, one.stderr
    two = command(*TORCHRUN, "train.py", *overrides(tmp_path / "two", "strategy=ddp"), python=sys.executable)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("Finished") == 1
    expected, found = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    for name in expected:
        assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)
    losses = [
        [row.get("val/loss", row.get("train/loss")) for row in map(json.loads, path.read_text().splitlines())]
        for path in (tmp_path / "one" / "metrics.jsonl", tmp_path / "two" / "metrics.jsonl")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_two_ranks_continue_what_two_ranks_left(overrides, tmp_path):
    arguments = overrides(tmp_path / "run", "strategy=ddp")
    assert command(*TORCHRUN, "train.py", *arguments).returncode == 0
    expected = load_file(tmp_path / "run" / "model" / "model.safetensors")
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000010")
    again = command(*TORCHRUN, "train.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert "step-00000009" in again.stdout
    found = load_file(tmp_path / "run" / "model" / "model.safetensors")
    for name in expected:
        assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6, msg=name)
