"""The estimate against the papers' own numbers, against hand-computed ones, and against real models on the CPU."""

import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from grow.averaging.cadence import resolve
from grow.averaging.settings import AveragingSettings
from grow.cli.config import EstimateConfig, compose
from grow.common.errors import ConfigError
from grow.common.gpus import GPUS, gpu_memory_bytes, peak_flops
from grow.common.places import CONFIG_DIR
from grow.distributed.settings import STRATEGIES
from grow.estimate.closed_form import (
    Counts,
    StateBytes,
    activation_bytes,
    allowed,
    communication_bytes,
    disk,
    grace_seconds,
    hours,
    loss_bytes,
    memory,
    memory_table,
    model_states,
    state_bytes,
)
from grow.estimate.counts import count
from grow.estimate.estimate_run import ConfiguredRun, estimate_run
from grow.families.build import model_from_noise
from grow.families.registry import stock_config
from grow.training.settings import PRECISIONS, CheckpointSettings
from grow.training.step.objective import NextTokenLoss
from grow.training.step.optimizer import build_optimizer
from scripts import estimate

ROOT = Path(__file__).parents[2]
ZERO_PAPER = StateBytes(weights=2, gradients=2, masters=4, moments=8)
TINY = {"llama": "tiny", "olmo": "tiny_olmo", "olmo2": "tiny_olmo2", "gpt_neox": "tiny_pythia", "opt": "tiny_opt"}
SIZES = ["model.vocab_size=64", "model.max_positions=64", "data.sequence_length=32", "model.heads=4"]
SIZES += ["model.head_dim=32", "model.embed=128", "model.ffn=320", "model.layers=3"]


@functools.cache
def composed(family):
    return compose([f"model={TINY[family]}", *SIZES, *(["model.dropout=0.0"] if family == "opt" else [])]).model


def tiny(family, **changes):
    return dataclasses.replace(composed(family), **changes)


def toy(**changes):
    sizes = {
        "family": "llama", "parameters": 1000, "embedding": 100, "head": 100, "block": 200, "linear": 700,
        "flops_per_token": 6000, "layers": 4, "embed": 10, "queries": 8, "keys": 4, "heads": 2, "ffn": 20,
        "vocabulary": 50,
    }  # fmt: skip
    return Counts(**sizes | changes)


@pytest.mark.parametrize(
    ("kind", "gigabytes"), [("ddp", 120), ("zero1", 31.4), ("zero2", 16.6), ("zero3", 1.9), ("fsdp2", 1.9)]
)
def test_model_states_are_those_of_the_zero_papers_figure_1(kind, gigabytes):
    states = model_states(7_500_000_000, kind, 64, ZERO_PAPER)
    assert round(states.total / 1e9, 1) == gigabytes


def test_model_states_by_hand():
    assert state_bytes("ddp", "fp32") == StateBytes(weights=4, gradients=4, masters=0, moments=8)
    assert state_bytes("zero2", "bf16_weights") == StateBytes(weights=2, gradients=4, masters=4, moments=8)
    states = model_states(1000, "zero2", 4, state_bytes("zero2", "bf16_weights"))
    assert (states.weights, states.gradients, states.masters, states.moments) == (2000, 1000, 1000, 2000)


@pytest.mark.parametrize("family", TINY)
def test_weights_gradients_and_moments_are_what_a_model_and_adamw_hold(family):
    settings = tiny(family)
    model = model_from_noise(stock_config(settings), 0)
    optimizer = build_optimizer(model, compose([]).optimizer, {})
    model(torch.zeros(1, 8, dtype=torch.int64)).logits.sum().backward()
    optimizer.step()
    states = memory(count(stock_config(settings), 32), "single", "fp32", gpus=1, tokens=64, rows=64)
    assert states.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert states.gradients == sum(parameter.grad.nbytes for parameter in model.parameters())
    moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert states.masters + states.moments == sum(moment.nbytes for moment in moments)


def kept_bytes(model, precision, tokens):
    """Bytes of all storages that autograd keeps for the trunk's backward pass, the model's own left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    assert hidden.requires_grad  # (its graph held every kept tensor until here)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", TINY)
def test_activations_are_what_autograd_keeps_for_each_layer(family, precision):
    grouped = {"kv_heads": 2} if family in ("llama", "olmo", "olmo2") else {}
    found = []
    for layers in (1, 3):
        model = model_from_noise(stock_config(tiny(family, **grouped, layers=layers)), 0)
        model = model.bfloat16() if precision == "bf16_weights" else model
        # the difference of two batches leaves out what does not depend on tokens: autocast's copies of weights
        few, many = (kept_bytes(model, precision, torch.zeros(size, 32, dtype=torch.int64)) for size in (1, 3))
        found.append(many - few)
    counts = count(stock_config(tiny(family, **grouped, layers=2)), 32)
    assert activation_bytes(counts, precision, 64) == pytest.approx(found[1] - found[0], rel=0.01)


def test_autocasts_copies_are_those_of_the_blocks_matrices():
    model = model_from_noise(stock_config(tiny("llama")), 0)
    few, many = (kept_bytes(model, "bf16", torch.zeros(size, 32, dtype=torch.int64)) for size in (1, 2))
    estimated = memory(count(stock_config(tiny("llama")), 32), "single", "bf16", gpus=1, tokens=32, rows=32)
    assert estimated.autocast_copies == pytest.approx(few - (many - few), rel=0.05)


def test_activations_by_hand():
    # 4 layers x 3 tokens x (24 x 10 + 8 x 8 + 8 x 4 + 16 x 20 + 4 x 2)
    assert activation_bytes(toy(), "fp32", 3) == 4 * 3 * (240 + 64 + 32 + 320 + 8)
    assert activation_bytes(toy(dropout=True), "fp32", 3) == 4 * 3 * (240 + 64 + 32 + 320 + 8 + 20)


def test_the_loss_by_hand():
    # a chunk's logits and softmax, the head's gradient (and bfloat16 copy), the hidden states' gradient
    assert loss_bytes(toy(), "fp32", tokens=12, rows=3) == 3 * 50 * 8 + 50 * 10 * 4 + 12 * 10 * 4
    assert loss_bytes(toy(), "bf16", tokens=12, rows=3) == 3 * 50 * 6 + 50 * 10 * (4 + 2) + 12 * 10 * 4
    assert loss_bytes(toy(), "bf16_weights", tokens=12, rows=3) == 3 * 50 * 6 + 50 * 10 * 2 + 12 * 10 * 2
    assert loss_bytes(toy(), "fp32", tokens=12, rows=0) == 12 * 50 * 12


def test_a_chunk_of_the_loss_takes_the_memory_that_is_estimated():
    """Largest sum of live tensors in a forward pass, counted by torch's own profiler."""
    hidden, head = torch.randn(512, 32, requires_grad=True), torch.randn(4096, 32, requires_grad=True)
    targets = torch.zeros(512, dtype=torch.int64)
    loss = NextTokenLoss(chunk_rows=128)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        loss(hidden, head, targets)
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    counts = toy(vocabulary=4096, embed=32)
    assert loss_bytes(counts, "fp32", tokens=512, rows=128) == pytest.approx(peak, rel=0.15)


def test_communication_by_hand():
    each = state_bytes("zero2", "bf16_weights")
    assert communication_bytes(toy(), "ddp", each) == 0
    assert communication_bytes(toy(), "zero1", each) == 2 * 1000 * 4
    assert communication_bytes(toy(), "zero2", each) == 2 * 1000 * 2
    assert communication_bytes(toy(), "zero3", each) == (1000 + 1000) * 2
    assert communication_bytes(toy(), "fsdp2", state_bytes("fsdp2", "fp32")) == (200 + 2 * 200) * 4 + (200 + 200) * 4
    huge = toy(parameters=5_000_000_000)
    assert communication_bytes(huge, "zero2", each) == 2 * 200_000_000 * 2
    assert communication_bytes(huge, "zero3", each) == (200_000_000 + 1_000_000_000) * 2


def test_one_gpu_shares_nothing_whatever_the_strategy():
    totals = {kind: memory(toy(), kind, "bf16", gpus=1, tokens=3, rows=3).total for kind in STRATEGIES}
    assert len(set(totals.values())) == 1


def test_the_table_has_every_strategy_and_precision_that_train_py_takes():
    table = memory_table(toy(), gpus=8, tokens=3, rows=3)
    assert list(table) == list(STRATEGIES) and all(list(row) == list(PRECISIONS) for row in table.values())
    refused = {(kind, precision) for kind, row in table.items() for precision in row if row[precision] is None}
    assert refused == {(kind, "bf16_weights") for kind in ("single", "ddp", "fsdp2")}
    assert allowed("zero1", "bf16_weights")


def test_hours_by_hand():
    assert hours(3.6e18, gpus=10, peak_flops=1e14, mfu=0.5) == pytest.approx(2.0)


def test_disk_by_hand():
    plain = CheckpointSettings(name="a", every_tokens=100, keep_last=2)
    assert disk(10, plain, 1000) == {"checkpoint": 120, "at_most_kept": 360, "written": 1200, "model": 40}
    assert disk(10, plain, 150)["at_most_kept"] == 240
    permanent = CheckpointSettings(name="a", every_tokens=100, keep_last=2, permanent_every_tokens=250)
    assert disk(10, permanent, 1000)["at_most_kept"] == 120 * (4 + 2 + 1)
    assert disk(10, permanent, 1000)["written"] == 120 * (10 + 4 - 2)
    assert disk(10, CheckpointSettings(name="a", every_tokens=None), 1000)["written"] == 0


def test_disk_of_an_average_by_hand():
    """A window of two snapshots adds 8 bytes a parameter, and permanent checkpoints drop it but for the newest."""
    lawa = AveragingSettings(name="lawa", kind="lawa", k=2, every_steps=1)
    window = resolve(lawa, total_steps=10, tokens_per_step=100, warmup_tokens=0)
    settings = CheckpointSettings(name="a", every_tokens=100, keep_last=2, permanent_every_tokens=250)
    assert disk(10, settings, 1000, window)["checkpoint"] == 120 + 80
    assert disk(10, settings, 1000, window)["at_most_kept"] == 120 * 7 + 80 * (2 + 1 + 1)
    kept = dataclasses.replace(settings, permanent_windows=True)
    assert disk(10, kept, 1000, window)["at_most_kept"] == 200 * 7


def test_the_grace_asked_of_slurm_follows_from_the_checkpoints_size(capsys):
    """A step may run on, a checkpoint may be under way, and another one is written."""
    assert grace_seconds(45 * 10**9, 10.0, 1e9) == 60 * 3  # 2 x 10 + 2 x 45 + 30 = 140 s
    line = ["model=olmo_2.9b", "averaging=lawa", "trainer=paper", "checkpoint=paper", "strategy.devices=8"]
    for more, seconds in (((), 300), (("averaging=none",), 120), (("estimate.disk_gb_per_s=10",), 120)):
        estimate.main.__wrapped__(compose([*line, "strategy=zero2", *more], "estimate", EstimateConfig))
        assert f"--signal=USR1@{seconds}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "embedding", "head", "block"),
    [
        (["model=olmo_2.9b"], 50304 * 4096, 50304 * 4096, 4 * 4096**2 + 3 * 4096 * 8192),
        (["model=olmo_2.9b", "model.tied_head=true"], 50304 * 4096, 0, 4 * 4096**2 + 3 * 4096 * 8192),
    ],
)
def test_parameters_are_counted_by_part(overrides, embedding, head, block):
    counts = count(compose(overrides).architecture(), 2048)
    assert (counts.embedding, counts.head, counts.block) == (embedding, head, block)
    assert counts.parameters == embedding + head + counts.body
    assert counts.linear == counts.layers * block == counts.body
    # 6 a matmul weight and full attention: grow/common/clock.py
    assert counts.flops_per_token == 6 * (counts.body + 50304 * 4096) + 12 * counts.layers * 4096 * 2048


def test_position_tables_count_with_the_embedding():
    counts = count(compose(["model=opt_1.3b"]).architecture(), 1024)
    assert counts.embedding == 50272 * 2048 + 2050 * 2048
    assert counts.head == 0


def test_every_gpu_with_a_peak_has_a_memory():
    assert all(gpu_memory_bytes(name) and peak_flops(name) for name in GPUS)


def test_the_estimate_makes_the_same_choices_as_train_py():
    estimated, trained = (yaml.safe_load((CONFIG_DIR / name).read_text()) for name in ("estimate.yaml", "train.yaml"))
    groups, others = (
        [line for line in file.pop("defaults") if isinstance(line, dict)] for file in (estimated, trained)
    )
    assert (groups, estimated) == (others, trained)
    run = compose(["model=olmo_1b", "trainer=paper"])
    config = compose(["model=olmo_1b", "trainer=paper"], "estimate", EstimateConfig)
    assert config.directory.parent == run.directory.parent
    assert (config.model, config.trainer, config.checkpoint) == (run.model, run.trainer, run.checkpoint)


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("estimate.mfu=40", "share between 0 and 1"),
        ("estimate.memory_gb=0", "above 0"),
        ("estimate.gp=H100", "mean gpu"),
    ],
)
def test_a_wrong_machine_is_one_paragraph(override, match):
    with pytest.raises(ConfigError, match=match):
        compose([override], "estimate", EstimateConfig)


@pytest.mark.parametrize("model", ["tiny_mixtral", "tiny_flex_olmo"])
def test_a_mixture_of_experts_is_refused_in_one_sentence_before_torch_is_imported(model):
    code = f"import sys; from scripts import estimate; sys.argv = ['estimate.py', 'model={model}']; estimate.main()"
    code = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"found {model.removeprefix('tiny_')}. The activations of mixtures of experts are not" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("model", ["tiny_mixtral", "tiny_flex_olmo"])
def test_estimating_a_mixture_of_experts_from_python_is_refused_too(model):
    config = compose([f"model={model}"], "estimate", EstimateConfig)
    parts = [field.name for field in dataclasses.fields(ConfiguredRun)]
    given = {name: getattr(config, name) for name in parts if name not in ("name", "architecture")}
    run = ConfiguredRun(name=model, architecture=config.architecture(), **given)
    with pytest.raises(ConfigError, match="expected a dense model"):
        estimate_run(run, config.estimate)


def test_the_command_prints_json_and_writes_the_same(tmp_path, capsys):
    overrides = ["model=olmo_2.9b", "strategy=zero2", "strategy.devices=64", "trainer.precision=bf16_weights"]
    overrides += ["json=true", f"output={tmp_path}/sub/estimate.json"]
    estimate.main.__wrapped__(compose(overrides, "estimate", EstimateConfig))
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "sub" / "estimate.json").read_text())
    part = found["memory_bytes"]["zero2"]["bf16_weights"]
    assert part["weights"] == 2 * 3_096_444_928
    assert part["masters"] + part["moments"] == 12 * 3_096_444_928 / 64
    assert part["total"] == pytest.approx(sum(value for name, value in part.items() if name != "total"))
    assert found["fits"]["zero2"]["bf16_weights"] is True
    assert found["fits"]["ddp"]["bf16_weights"] is None
    assert found["time"]["gpu_hours"] == pytest.approx(64 * found["time"]["hours"])


def test_the_command_says_what_train_py_would_refuse_and_what_does_not_fit(capsys):
    toy = ["trainer=default", "data=english", "checkpoint=default"]  # in place of the model's recipe
    overrides = ["model=olmo_2.9b", *toy, "strategy=ddp", "strategy.devices=64", "estimate.gpu=A10"]
    estimate.main.__wrapped__(compose(overrides, "estimate", EstimateConfig))
    shown = capsys.readouterr().out
    assert "train.py would refuse trainer.tokens_per_step=4,096" in shown
    assert "59.82 does NOT fit" in shown
    assert "206,045,184 embedding + 2,684,354,560 body + 206,045,184 head" in shown


def test_the_headline_is_estimated_in_the_precision_of_a_gpu_with_the_checkpoints_of_its_recipe(capsys):
    overrides = ["model=olmo_2.9b", "strategy=zero2", "strategy.devices=64"]
    estimate.main.__wrapped__(compose(overrides, "estimate", EstimateConfig))
    shown = capsys.readouterr().out
    assert "precision=bf16" in shown
    assert "train.py would refuse" not in shown
    assert "written in all" in shown and float(shown.partition(" GB written")[0].split()[-1].replace(",", "")) < 10_000


def test_an_interval_that_train_py_would_refuse_is_not_estimated():
    with pytest.raises(ConfigError, match=r"checkpoint\.every_tokens=200,000: expected at least one step"):
        estimate.main.__wrapped__(compose(["trainer=paper"], "estimate", EstimateConfig))


def test_the_command_names_the_gpus_it_knows():
    command = [sys.executable, "scripts/estimate.py", "estimate.gpu=GTX"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "H200" in done.stderr and "estimate.peak_tflops" in done.stderr
