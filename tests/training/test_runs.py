"""Whole tiny runs in one process: rows, accumulation, resuming bit for bit, endings."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file

from grow.common import metric_names as names
from grow.common.errors import ConfigError, DivergedError
from grow.training.loop import metrics
from grow.training.step.module import PretrainModule

DROPOUT = ("model=tiny_opt", "model.dropout=0.2")


def weights(run_dir):
    return load_file(run_dir / "model" / "model.safetensors")


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def stop_at_step(monkeypatch):
    """(step) -> the next runs die in that step, as if killed."""

    def arrange(step: int) -> None:
        original = PretrainModule.training_step

        def training_step(self, batch, batch_idx):
            if self.clock.tokens == (step - 1) * self.clock.tokens_per_step:
                raise RuntimeError("killed")
            return original(self, batch, batch_idx)

        monkeypatch.setattr(PretrainModule, "training_step", training_step)

    return arrange


def test_a_run_learns_and_leaves_a_stock_model(train, tmp_path, rows):
    run = train(tmp_path / "run", "trainer.max_tokens=12800")
    validation = [row[names.VAL_LOSS] for row in rows(run) if names.VAL_LOSS in row]
    assert validation[0] == pytest.approx(math.log(64), abs=0.1)
    assert validation[-1] < validation[0] - 1
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert model.config.eos_token_id == 0
    assert (run / "model" / "tokenizer.json").is_file()


def test_rows_carry_the_clock_and_the_named_metrics_at_the_steps_where_they_are_due(trained_once, rows):
    found = rows(trained_once())
    assert all(row["tokens"] == 128 * row["step"] for row in found)
    assert all(row["flops"] == found[-1]["flops"] // 1280 * row["tokens"] for row in found)
    assert [row["seconds"] for row in found] == sorted(row["seconds"] for row in found)
    training = [row for row in found if names.TRAIN_LOSS in row]
    # every 2 steps; step 3 also, because a checkpoint is due there and must not hold a diverged model
    assert [row["step"] for row in training] == [2, 3, 4, 6, 8, 9, 10]
    wanted = {names.TRAIN_LOSS, names.TRAIN_TOKENS, names.LEARNING_RATE, names.GRAD_NORM, names.TOKENS_PER_SEC}
    assert all(wanted <= row.keys() for row in training)
    assert all(row[names.TRAIN_TOKENS] == row["tokens"] for row in training)
    assert names.MFU not in training[0]  # a CPU's peak is not known
    assert [row["tokens"] for row in found if names.VAL_LOSS in row] == [0, 512, 1024, 1280]


def test_logged_train_loss_is_the_mean_since_the_last_row(train, tmp_path, rows, monkeypatch):
    seen = []
    original = PretrainModule.training_step

    def training_step(self, batch, batch_idx):
        loss = original(self, batch, batch_idx)
        seen.append(loss.item())
        return loss

    monkeypatch.setattr(PretrainModule, "training_step", training_step)
    run = train(tmp_path / "run", "checkpoint.every_tokens=null", "trainer.log_every_steps=5")
    logged = [row[names.TRAIN_LOSS] for row in rows(run) if names.TRAIN_LOSS in row]
    assert logged == pytest.approx([sum(seen[:10]) / 10, sum(seen[10:]) / 10])  # 2 micro-batches a step


def test_logged_learning_rate_is_the_scheduled_one_and_the_one_used(train, tmp_path, rows, monkeypatch):
    used = []
    original = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        used.append({group["lr"] for group in self.param_groups})
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run = train(
        tmp_path / "run", "schedule.warmup_tokens=640", "trainer.log_every_steps=1", "checkpoint.every_tokens=null"
    )
    logged = [row[names.LEARNING_RATE] for row in rows(run) if names.LEARNING_RATE in row]
    assert logged[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert logged[-1] == pytest.approx(0.001)
    assert used == [{rate} for rate in logged]


def test_logged_gradient_norm_is_the_one_that_clipping_found(train, tmp_path, rows, monkeypatch):
    norms = []
    original = torch.nn.utils.clip_grad_norm_

    def clip(parameters, limit):
        assert limit == 0.05
        norms.append(original(parameters, limit).item())
        return torch.tensor(norms[-1])

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    more = ("optimizer.max_grad_norm=0.05", "trainer.log_every_steps=1", "checkpoint.every_tokens=null")
    run = train(tmp_path / "run", *more)
    assert [row[names.GRAD_NORM] for row in rows(run) if names.GRAD_NORM in row] == pytest.approx(norms)


def test_accumulating_small_batches_equals_one_large_batch(train, tmp_path):
    large = weights(train(tmp_path / "large", "trainer.micro_batch=8"))
    small = weights(train(tmp_path / "small", "trainer.micro_batch=2"))
    for name in large:
        torch.testing.assert_close(small[name], large[name], rtol=1e-3, atol=2e-5, msg=name)


def test_chunks_change_the_weights_by_rounding_only(train, tmp_path):
    chunked = weights(train(tmp_path / "chunked", "objective.chunk_rows=7"))
    plain = weights(train(tmp_path / "plain", "objective.chunk_rows=0"))
    for name in chunked:
        torch.testing.assert_close(chunked[name], plain[name], rtol=1e-3, atol=2e-5, msg=name)


def test_bf16_keeps_float32_weights_and_stays_close(train, trained_once, tmp_path, rows):
    wide = trained_once()
    mixed = train(tmp_path / "mixed", "trainer.precision=bf16")
    assert {tensor.dtype for tensor in weights(mixed).values()} == {torch.float32}
    difference = rows(mixed)[-1][names.VAL_LOSS] - rows(wide)[-1][names.VAL_LOSS]
    assert 0 < abs(difference) < 0.02


@pytest.mark.parametrize("model", [(), DROPOUT], ids=["llama", "opt with dropout"])
@pytest.mark.parametrize("step", [5, *(pytest.param(step, marks=pytest.mark.slow) for step in (2, 4, 8))])
def test_a_killed_run_continues_to_the_same_bits(
    train, trained_once, tmp_path, rows, monkeypatch, stop_at_step, model, step
):
    quiet = trained_once(*model)
    with monkeypatch.context():
        stop_at_step(step)
        with pytest.raises(RuntimeError, match="killed"):
            train(tmp_path / "killed", *model)
    monkeypatch.undo()
    killed = train(tmp_path / "killed", *model)
    assert_same_weights(weights(killed), weights(quiet))
    volatile = {"seconds", names.TOKENS_PER_SEC}
    assert [{k: v for k, v in row.items() if k not in volatile} for row in rows(killed)] == [
        {k: v for k, v in row.items() if k not in volatile} for row in rows(quiet)
    ]


def test_a_torn_checkpoint_is_named_and_skipped(train, trained_once, tmp_path, monkeypatch, stop_at_step, capsys):
    quiet = trained_once()
    with monkeypatch.context():
        stop_at_step(8)
        with pytest.raises(RuntimeError):
            train(tmp_path / "killed")
    monkeypatch.undo()
    saved = sorted((tmp_path / "killed" / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["step-00000003", "step-00000006"]
    weight_file = saved[1] / "model.safetensors"
    weight_file.write_bytes(weight_file.read_bytes()[:-1] + b"\x01")
    capsys.readouterr()
    killed = train(tmp_path / "killed")
    printed = capsys.readouterr().out
    assert "step-00000006: model.safetensors is not what was written" in printed
    assert "checkpoint" in printed and "step-00000003" in printed
    assert_same_weights(weights(killed), weights(quiet))


def test_only_the_newest_checkpoints_are_kept(train, tmp_path):
    run = train(tmp_path / "run", "checkpoint.keep_last=2", "checkpoint.every_tokens=128")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000009", "step-00000010"]


def test_a_checkpoint_is_a_stock_model_directory(trained_once):
    from grow.families.build import load_model

    run = trained_once()
    model = load_model(run / "checkpoints" / "step-00000010")
    assert_same_weights({k: v for k, v in model.state_dict().items() if k in weights(run)}, weights(run))


def test_a_finished_run_says_so_and_is_left_alone(train, trained_once, tmp_path, capsys):
    run = shutil.copytree(trained_once(), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    capsys.readouterr()
    train(run)
    assert f"{run} is finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_run_that_lost_only_its_export_is_exported_from_its_last_checkpoint(train, trained_once, tmp_path):
    run = shutil.copytree(trained_once(), tmp_path / "run")
    before = weights(run)
    shutil.rmtree(run / "model")
    assert_same_weights(weights(train(run)), before)


def test_another_configuration_in_the_same_directory_is_refused_with_the_keys_that_differ(train, trained_once):
    run = trained_once()
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.01 there, 0\.02 here") as error:
        train(run, "optimizer.lr=0.02")
    assert "trainer" not in str(error.value)


def test_a_run_whose_gradients_stay_infinite_stops_and_names_what_they_read(train, tmp_path):
    run = tmp_path / "run"
    more = ("optimizer.lr=1e18", "optimizer.max_grad_norm=0", "schedule.warmup_tokens=0", "trainer.max_skipped_steps=3")
    with pytest.raises(DivergedError, match="3 steps in a row, the last of them step 4") as error:
        train(run, *more, "trainer.val_every_tokens=1280")
    assert error.value.exit_code == 76
    assert not (run / "model").exists()
    assert not list(run.glob("checkpoints/*"))  # one was due at step 3: none holds a diverged model
    report = json.loads((run / "diverged.json").read_text())
    assert [step["step"] for step in report["steps"]] == [2, 3, 4]
    assert [(step["first_sequence"], step["last_sequence"]) for step in report["steps"]] == [
        (8, 15),
        (16, 23),
        (24, 31),
    ]


def test_a_start_that_is_not_finite_stops_before_the_first_step(train, tmp_path, monkeypatch):
    monkeypatch.setattr(PretrainModule, "validation_losses", lambda *_: torch.full((10,), math.nan).double())
    with pytest.raises(DivergedError, match="validation loss is nan at step 0"):
        train(tmp_path / "run")


def test_validation_loss_is_the_mean_over_all_validation_tokens(trained_once, rows, shards):
    from grow.data.data_module import TokenDataModule
    from grow.families.build import load_model

    run = trained_once()
    data = TokenDataModule(shards, sequence_length=16, micro_batch=1, seed=0, val_tokens=160)
    batches = list(data.val_dataloader())
    model = load_model(run / "model")
    with torch.no_grad():
        losses = [model(b[:, :-1], labels=b[:, :-1], shift_labels=b[:, 1:].clone()).loss.item() for b in batches]
    assert len(losses) == 10  # 4 + 4 + 2 in the run: the last batch is smaller and must weigh less
    assert rows(run)[-1][names.VAL_LOSS] == pytest.approx(sum(losses) / 10, rel=1e-5)


def test_run_json_holds_what_the_run_was(train, tmp_path, shards, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "model=tiny", "logger.api_key=abc", "hub.token=def"])
    run = json.loads((train(tmp_path / "run") / "run.json").read_text())
    assert run["argv"] == ["train.py", "model=tiny", "logger.api_key=***", "hub.token=***"]
    assert run["status"] == "finished"
    assert run["config"]["optimizer"]["lr"] == 0.01
    assert run["config"]["optimizer"]["_type"] == "OptimizerSettings"
    assert run["data"]["digest"] == shards.digest
    assert run["model"]["sequence_length"] == 16
    assert {"name", "versions", "git_commit", "lineage", "started"} <= run.keys()


def test_training_never_waits_for_the_device_between_rows(train, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(PretrainModule, "mean_loss", lambda self: calls.append(self.clock.tokens) or 1.0)
    train(tmp_path / "run", "trainer.log_every_steps=5", "checkpoint.every_tokens=null")
    assert calls == [640, 1280]


def test_pauses_do_not_count_as_training_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("grow.training.loop.metrics.time.perf_counter", lambda: now[0])
    lap = metrics.Lap(0)
    now[0] = 10.0
    lap.leave_out(8.0)
    assert lap.tokens_per_second(100) == pytest.approx(50)
    now[0] = 11.0
    assert lap.tokens_per_second(300) == pytest.approx(200)
