"""trainer.precision=auto in a run: what run.json records, what a run continues in, and what the engine is set to."""

import json
import shutil

import pytest
import torch

from grow.cli.config import compose
from grow.common.errors import ConfigError
from grow.training import announce
from grow.training.engine.trainer import _allow_tensor_cores
from grow.training.run_directory import RunDirectory
from tests.training.tiny import command_line


def recorded(run_dir):
    return json.loads((run_dir / "run.json").read_text())["config"]["trainer"]["precision"]


def test_a_run_records_and_announces_what_auto_stood_for(train, tmp_path, capsys):
    run = train(tmp_path / "run")
    assert recorded(run) == "fp32"
    assert "cpu, fp32, single" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("begun", "given", "accepted"),
    [
        ("fp32", [], True),
        ("bf16", [], True),
        ("fp32", ["trainer.precision=fp32"], True),
        ("fp32", ["trainer.precision=bf16"], False),
        ("bf16", ["trainer.precision=fp32"], False),
    ],
)
def test_a_command_that_names_no_precision_continues_a_run_of_any(begun, given, accepted, tmp_path):
    config = compose(["model=tiny", f"run_dir={tmp_path}", f"trainer.precision={begun}"]).resolved()
    (tmp_path / "run.json").write_text(json.dumps({"config": config}))
    run, directory = compose(["model=tiny", f"run_dir={tmp_path}", *given]), RunDirectory(tmp_path)
    if accepted:
        assert directory.check_continues(run.resolved(), "exact") == []
        assert run.plan().on("cuda", begun_with=directory.precision).trainer.precision == begun
    else:
        with pytest.raises(ConfigError, match=r"trainer\.precision: .* there, .* here.*resume=changed"):
            directory.check_continues(run.resolved(), "exact")


def test_a_run_goes_on_in_the_precision_it_began_with(train, tmp_path):
    run = train(tmp_path / "run", "trainer.max_tokens=640", "trainer.precision=bf16")
    shutil.rmtree(run / "model")  # as if it had been stopped before its export
    train(run, "trainer.max_tokens=640")
    assert recorded(run) == "bf16"


@pytest.mark.parametrize(
    ("parameters", "given", "warned"),
    [
        (100_000_001, (), ["trainer.tokens_per_step=128", "optimizer.lr=0.01"]),
        (100_000_001, ("optimizer.lr=1e-4",), ["trainer.tokens_per_step=128"]),
        (100_000_000, (), []),
    ],
)
def test_a_large_model_on_toy_settings_is_warned_about_once_before_it_trains(
    parameters, given, warned, shards_dir, tmp_path
):
    plan = compose(command_line(shards_dir, tmp_path / "run", *given)).plan()
    warning = announce._toy_settings(plan, parameters) or ""
    assert [setting in warning for setting in warned] == [True] * len(warned)
    assert bool(warning) == bool(warned)


def test_the_warning_is_printed_once(train, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(announce, "_LARGE", 1)
    train(tmp_path / "run", "trainer.max_tokens=128", "checkpoint=none")
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("Warning: ") and "a few million" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [("cpu", "bf16", "medium"), ("cpu", "fp32", "medium"), ("cuda", "bf16", "high"), ("cuda", "fp32", "highest")],
)
def test_float32_products_may_be_tf32_on_a_gpu_that_trains_in_bf16_and_a_cpu_keeps_its_bits(
    device, precision, expected
):
    plan = compose([f"trainer.precision={precision}"]).plan()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        _allow_tensor_cores(plan, torch.device(device))
        assert torch.get_float32_matmul_precision() == expected
    finally:
        torch.set_float32_matmul_precision(before)
