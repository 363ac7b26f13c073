"""Odd values on the command line: each key takes them, or refuses them in a sentence that names it; nothing else."""

import copy
import dataclasses
import functools
import math
import os
import re
import typing
from pathlib import Path

import pytest
from hydra import compose as compose_hydra
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from grow.cli.config import COMMANDS, compose, parse, register
from grow.cli.explain import explain, is_set_below_null
from grow.cli.run_config import RunConfig
from grow.cli.spelling import spelled
from grow.common.errors import GrowError
from grow.common.places import CONFIG_DIR

LONG = "x" * 5000
ODD = [-1, 0, 0.5, math.nan, math.inf, -math.inf, 1e300, 2**63, -(2**70), "", "-", LONG, "../" * 50, [], [None], {}]
ODD += [{"a": 1}, None, True, "nan", "\0", "é\n"]

BASES = {
    "train": [],
    "joined": ["model=tiny_2x", "growth=join", "growth.sources=[x,y]"],
    "grown": ["model=tiny_2x", "growth=hyperclone_noisy", "growth.source=x"],
    "opt": ["model=tiny_opt"],
    "pythia": ["model=tiny_pythia"],
    "olmo": ["model=tiny_olmo"],
    "olmo2": ["model=tiny_olmo2"],
    "mixtral": ["model=tiny_mixtral"],
    "flex_olmo": ["model=tiny_flex_olmo"],
    **{kind: [f"averaging={kind}"] for kind in ("lawa", "ema", "swa", "wsm")},
    **{kind: [f"schedule={kind}"] for kind in ("cosine", "wsd")},
    "zero2": ["strategy=zero2"],
    "submodel": ["trainable=submodel", "trainable.block_layers=1"],
    "evaluated": ["evaluation=fast"],
    "wandb": ["logger=wandb"],
    "estimate": [],
    "chain": ["chain=stackbert"],
    "grow_checkpoint": ["source=x", "output=y", "growth=hyperclone"],
    "prepare_data": ["input=[x]", "output=y", "vocab_size=300"],
    "report": ["runs=x", "output=y"],
    "report_presets": ["runs=x", "output=y"],
    "export": ["source=x", "output=y"],
    "average_checkpoints": ["checkpoints=[x]", "output=y", "averaging=lawa"],
    "sweep_averages": ["run=x", "output=y"],
    "wandb_report": ["runs=x", "output=y"],
    "eval": ["checkpoint=x"],
    "analyze": ["run=x"],
    "fetch_eval_data": ["output=y"],
    "inspect_data": ["decontaminate=x", "corpus=x"],
}
OF_THE_RUN = ("growth", "averaging", "model", "schedule", "strategy", "trainable", "evaluation", "logger")
"""Groups of which a base of train.py has a choice of its own: only their keys are tried there again."""


@functools.cache
def base(name):
    """Return what Hydra composes for a base, and the dataclass it is parsed into."""
    register()
    command = name if name in {*COMMANDS, "train"} else "train"
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose_hydra(command, spelled(command, BASES[name])), COMMANDS["run" if command == "train" else command]


def keys(settings, prefix=""):
    """Return the dotted key of every field of settings and of the settings in it."""
    found = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        found.append(prefix + field.name)
        if dataclasses.is_dataclass(value):
            found += keys(value, f"{prefix}{field.name}.")
        elif isinstance(value, dict):
            for name, item in value.items():
                found += keys(item, f"{prefix}{field.name}.{name}.") if dataclasses.is_dataclass(item) else []
    return found


def cases():
    """Yield every base with every key that is its own."""
    for name, overrides in BASES.items():
        cfg, schema = base(name)
        own = {override.partition("=")[0].partition(".")[0] for override in overrides}
        for key in keys(parse(cfg, schema)):
            if name in {*COMMANDS, "train"} - {"estimate", "chain"} or key.partition(".")[0] in {*own, name}:
                yield pytest.param(name, key, id=f"{name}-{key}")


def is_number(name, key):
    """Return whether a key's value is a number, which is neither NaN nor infinite, and no truth value."""
    cfg, _ = base(name)
    parent, _, leaf = key.rpartition(".")
    settings = OmegaConf.get_type(OmegaConf.select(cfg, parent) if parent else cfg)
    hint = typing.get_type_hints(settings)[leaf] if dataclasses.is_dataclass(settings) else str
    return bool({int, float} & {hint, *typing.get_args(hint)}) and typing.get_origin(hint) not in (list, dict)


def used(name, key, value):
    """Do with one value what a command does before anything heavy; return the error that a user would see."""
    cfg, schema = base(name)
    cfg = copy.deepcopy(cfg)
    try:
        OmegaConf.update(cfg, key, value, merge=False)
        config = parse(cfg, schema)
        if isinstance(config, RunConfig):
            config.plan()
            _ = config.directory
    except GrowError as error:
        return error
    except (HydraException, OmegaConfBaseException) as error:
        return explain(error)
    except AssertionError as error:
        if is_set_below_null(error):
            return explain(error)
        raise
    return None


@pytest.mark.slow  # eleven thousand configurations
@pytest.mark.parametrize(("name", "key"), cases())
def test_every_key_takes_an_odd_value_or_refuses_it_by_name(name, key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in ODD:
        error = used(name, key, value)
        if is_number(name, key) and (value is True or (isinstance(value, float) and not math.isfinite(value))):
            assert error is not None, f"{key}={value} was taken"
        if error is not None:
            inside = isinstance(value, dict) and str(error).startswith(tuple(f"{name}: " for name in value))
            names_it = key.rpartition(".")[2] in str(error) or key.partition(".")[0] in str(error)
            assert names_it or inside, (value, error)
            assert error.exit_code in (2, 77), (value, error)


REFUSED = [
    # base, key, value, what the sentence says
    ("train", "seed", -1, "seed=-1: expected a whole number from 0"),
    ("train", "seed", 2**32, "seed=4294967296"),
    ("train", "run_dir", "", "run_dir='': expected a path"),
    ("train", "run_dir", LONG, "a filesystem takes"),
    ("train", "run_dir", "a/" * 2500, "a filesystem takes"),
    ("train", "data.path", "", "data.path=''"),
    ("train", "data.sequence_length", 1, "at least 2 tokens"),
    ("train", "data.sequence_length", 2**40, "data.sequence_length"),
    ("train", "data.damaged_tokens", [5, 5], "FIRST before END"),
    ("train", "data.damaged_tokens", [1], "FIRST before END"),
    ("train", "optimizer.lr", 0, "optimizer.lr=0"),
    ("train", "optimizer.lr", -0.1, "optimizer.lr=-0.1"),
    ("train", "optimizer.lr", math.nan, "optimizer.lr=nan: expected a finite number"),
    ("train", "optimizer.lr", math.inf, "optimizer.lr=inf"),
    ("train", "optimizer.eps", -1, "optimizer.eps=-1"),
    ("train", "optimizer.eps", 0, "optimizer.eps=0"),
    ("train", "optimizer.betas", [0.9], "two numbers in [0, 1)"),
    ("train", "optimizer.betas", [0.9, 1.0], "two numbers in [0, 1)"),
    ("train", "optimizer.betas", [math.nan, 0.9], "optimizer.betas=nan"),
    ("train", "optimizer.weight_decay", -1, "optimizer.weight_decay=-1"),
    ("train", "optimizer.max_grad_norm", -1, "optimizer.max_grad_norm=-1"),
    ("train", "schedule.warmup_fraction", 1.1, "share between 0 and 1"),
    ("train", "schedule.warmup_tokens", -1, "0 or more tokens"),
    ("train", "schedule.final_fraction", -0.1, "share between 0 and 1"),
    ("train", "objective.chunk_rows", -1, "0 or more rows"),
    ("train", "trainer.threads", 0, "trainer.threads=0"),
    ("train", "trainer.threads", -1, "trainer.threads=-1"),
    ("train", "trainer.threads", 10**9, "from 1 to 4096"),
    ("train", "trainer.micro_batch", 0, "trainer.micro_batch=0"),
    ("train", "trainer.max_tokens", -5, "trainer.max_tokens=-5"),
    ("train", "trainer.max_tokens", 10**30, "trainer.max_tokens=1e+30: expected a number of at most"),
    ("train", "trainer.max_tokens", True, "trainer.max_tokens"),
    ("train", "trainer.tokens_per_step", 0, "trainer.tokens_per_step=0"),
    ("train", "trainer.val_tokens", 0, "trainer.val_tokens=0"),
    ("train", "trainer.val_every_tokens", -1, "trainer.val_every_tokens=-1"),
    ("train", "trainer.log_every_steps", 0, "trainer.log_every_steps=0"),
    ("train", "trainer.max_skipped_steps", 0, "trainer.max_skipped_steps=0"),
    ("train", "trainer.precision", "fp8", "expected one of"),
    ("train", "trainer.accelerator", "tpu", "auto, cpu, gpu"),
    ("train", "trainer.compile", "", "expected one of"),
    ("train", "checkpoint.keep_last", 0, "checkpoint.keep_last=0"),
    ("train", "checkpoint.every_tokens", 0, "checkpoint.every_tokens=0"),
    ("train", "checkpoint.permanent_every_tokens", -1, "checkpoint.permanent_every_tokens=-1"),
    ("train", "strategy.timeout_s", 0, "strategy.timeout_s=0"),
    ("train", "strategy.timeout_s", 1e12, "strategy.timeout_s"),
    ("train", "strategy.devices", 0, "strategy.devices=0"),
    ("train", "strategy.devices", 3, "number of processes is 1"),
    ("train", "trainable.block_layers", 0, "trainable.block_layers=0"),
    ("train", "analysis.layers", [-1], "layer numbers from 0"),
    ("train", "analysis.every_tokens", 0, "analysis.every_tokens=0"),
    ("train", "model.name", "", "model.name=''"),
    ("train", "model.name", "a/b", "without a slash"),
    ("train", "model.name", "x" * 200, "at most 100 characters"),
    ("train", "model.vocab_size", 0, "model.vocab_size=0"),
    ("train", "model.vocab_size", 2**31, "from 1 to 2147483647"),
    ("train", "model.layers", 0, "model.layers=0"),
    ("train", "model.embed", -8, "model.embed=-8"),
    ("train", "model.heads", 0, "model.heads=0"),
    ("train", "model.kv_heads", 0, "model.kv_heads=0"),
    ("train", "model.kv_heads", 3, "divisor"),
    ("train", "model.ffn", 10**18, "model.ffn"),
    ("train", "model.init_std", 0, "model.init_std=0"),
    ("train", "model.eos_id", -1, "model.eos_id=-1"),
    ("train", "model.pad_id", 10**6, "below model.vocab_size"),
    ("train", "model.norm_eps", 0, "model.norm_eps=0"),
    ("train", "model.rope_theta", -1, "model.rope_theta=-1"),
    ("opt", "model.dropout", 1.5, "from 0 to 1"),
    ("opt", "model.word_embed", 0, "model.word_embed=0"),
    ("pythia", "model.rotary_fraction", 0, "model.rotary_fraction=0"),
    ("pythia", "model.rotary_fraction", 2, "from 0 to 1"),
    ("olmo", "model.clip_qkv", 0, "model.clip_qkv=0"),
    ("olmo", "model.rope_theta", 0, "model.rope_theta=0"),
    ("mixtral", "model.experts", 0, "model.experts=0"),
    ("mixtral", "model.active_experts", 99, "model.active_experts=99"),
    ("grown", "growth.source", "", "growth.source=''"),
    ("grown", "growth.seed", -1, "growth.seed=-1"),
    ("grown", "growth.snr_db", 1000, "growth.snr_db=1000"),
    ("grown", "growth.snr_db", math.nan, "growth.snr_db=nan"),
    ("grown", "growth.largest_share", 1, "growth.largest_share=1"),
    ("grown", "growth.redrawn", 2, "growth.redrawn=2"),
    ("grown", "growth.expert_noise", -1, "growth.expert_noise=-1"),
    ("grown", "growth.router_std", 0, "growth.router_std=0"),
    ("joined", "growth.weights", [-1], "growth.weights=-1"),
    ("joined", "growth.weights", [0, 0], "growth.weights=[0.0, 0.0]: expected at least one above 0"),
    ("grown", "growth.sources", ["x"], "growth.sources"),
    ("lawa", "averaging.k", 0, "averaging.k=0"),
    ("lawa", "averaging.horizon", math.nan, "averaging.horizon=nan"),
    ("ema", "averaging.decay", 1, "[0, 1)"),
    ("evaluated", "evaluation.limit", 0, "evaluation.limit=0"),
    ("evaluated", "evaluation.num_fewshot", -1, "evaluation.num_fewshot=-1"),
    ("evaluated", "evaluation.tasks", ["pica"], "Did you mean piqa"),
    ("evaluated", "evaluation.batch_tokens", 0, "evaluation.batch_tokens=0"),
    ("evaluated", "evaluation.data_dir", "", "evaluation.data_dir=''"),
    ("wandb", "logger.project", "", "logger.project=''"),
    ("wandb", "logger.views", ["csv", "csv"], "at most once"),
    ("estimate", "estimate.mfu", 0, "estimate.mfu=0"),
    ("estimate", "estimate.mfu", math.nan, "estimate.mfu=nan"),
    ("estimate", "estimate.reserve", 1, "estimate.reserve=1"),
    ("estimate", "estimate.memory_gb", -1, "estimate.memory_gb=-1"),
    ("estimate", "estimate.peak_tflops", math.inf, "estimate.peak_tflops=inf"),
    ("chain", "chain.name", "", "chain.name=''"),
    ("grow_checkpoint", "workers", 0, "workers=0"),
    ("grow_checkpoint", "shard_gb", 0, "shard_gb=0"),
    ("grow_checkpoint", "shard_gb", math.nan, "shard_gb=nan"),
    ("grow_checkpoint", "scale.embed", 0.5, "scale.embed=0.5"),
    ("grow_checkpoint", "scale.embed", 1e12, "scale.embed=1e+12"),
    ("grow_checkpoint", "output", "", "output=''"),
    ("grow_checkpoint", "output", LONG, "a filesystem takes"),
    ("prepare_data", "shard_tokens", 0, "shard_tokens=0"),
    ("prepare_data", "vocab_size", -1, "vocab_size=-1"),
    ("prepare_data", "output", "", "output=''"),
    ("report", "amortised_over", 0, "amortised_over=0"),
    ("report", "output", LONG, "a filesystem takes"),
    ("report_presets", "best", 0, "best=0"),
    ("export", "output", "", "output=''"),
    ("average_checkpoints", "checkpoints", [], "checkpoints=[]"),
    ("sweep_averages", "k", [0], "k=0"),
    ("sweep_averages", "micro_batch", 0, "micro_batch=0"),
    ("sweep_averages", "val_tokens", -1, "val_tokens=-1"),
    ("wandb_report", "output", "", "output=''"),
    ("eval", "threads", 0, "threads=0"),
    ("eval", "threads", 10**9, "from 1 to 4096"),
    ("eval", "checkpoints", [], "expected a run directory"),
    ("eval", "precision", "fp16", "auto, fp32, bf16"),
    ("analyze", "layers", [], "layer numbers from 0"),
    ("fetch_eval_data", "tasks", [], "expected some of"),
    ("inspect_data", "ngram", 0, "ngram=0"),
]


@pytest.mark.parametrize(
    ("name", "key", "value", "says"), REFUSED, ids=[f"{n}-{k}={v!s:.20}" for n, k, v, _ in REFUSED]
)
def test_what_makes_no_sense_is_refused_in_a_sentence(name, key, value, says):
    assert says in str(used(name, key, value))


OUTPUTS = [name for name, overrides in BASES.items() if "output=y" in overrides] + ["estimate", "inspect_data", "eval"]
IN_THE_WAY = [
    # what is at the path, the path, what the sentence says
    (lambda here: (here / "link").symlink_to("nowhere"), "link", "is a link to nowhere"),
    (lambda here: (here / "link").symlink_to("nowhere"), "link/below", "is a link to nowhere"),
    (lambda here: (here / "loop").symlink_to("loop"), "loop", "is a link to loop"),
    (lambda here: (here / "file").write_text(""), "file/below", "is a file"),
    (lambda here: (here / "file").write_text(""), "file/far/below", "is a file"),
    (lambda here: None, "x" * 300, "a filesystem takes"),
    (lambda here: None, "/proc/below", "cannot be written"),
]


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_that_cannot_be_written_is_refused_by_every_command(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place, path, says in IN_THE_WAY:
        for old in tmp_path.iterdir():
            old.unlink()
        place(tmp_path)
        if path != "/proc/below" or not os.access("/proc", os.W_OK):
            assert says in str(used(name, "output", path)), path


def test_an_output_of_the_wrong_kind_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("directory").mkdir()
    assert "found a file" in str(used("report", "output", "file"))
    assert "found a directory" in str(used("inspect_data", "output", "directory"))
    assert used("report", "output", "directory") is None
    assert used("inspect_data", "output", "file") is None
    assert used("report", "output", "new/below") is None


@pytest.mark.parametrize(("place", "path", "says"), [*IN_THE_WAY, (IN_THE_WAY[3][0], "file", "found a file")])
def test_a_run_directory_that_cannot_be_written_is_refused_before_training(place, path, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if path == "/proc/below" and os.access("/proc", os.W_OK):
        pytest.skip("/proc can be written here")
    place(tmp_path)
    with pytest.raises(GrowError, match=re.escape(says)):
        compose([f"run_dir={path}"]).check_inputs()


def test_a_default_run_directory_whose_parent_is_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("outputs").write_text("")
    with pytest.raises(GrowError, match=r"outputs is a file"):
        compose([]).check_inputs()
