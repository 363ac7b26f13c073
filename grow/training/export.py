"""The two ends of a run on disk: what it says when it starts, and the stock model directory it leaves."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grow.common.clock import Clock
from grow.common.files import new_directory
from grow.common.provenance import Lineage, digest_files, write_lineage
from grow.data.shards import TokenShards
from grow.families.build import parameter_count, training_flops_per_token
from grow.families.weights import copy_tokenizer, weight_files
from grow.training.checkpoint_writer import save_model
from grow.training.fit import Trained
from grow.training.plan import Plan
from grow.training.processes import is_first
from grow.training.run_directory import RunDirectory
from grow.training.start import Start


def announce(
    start: Start,
    plan: Plan,
    device: torch.device,
    run: RunDirectory,
    shards: TokenShards,
    config: dict[str, Any],
    changes: list[str],
) -> None:
    """Write run.json and say in one block what is about to happen, and what has changed since the run was started."""
    if not is_first():
        return
    model, batch = start.model, plan.batch
    flops = training_flops_per_token(model, batch.sequence_length)
    run.start(
        config,
        changes,
        model={
            "parameters": parameter_count(model),
            "flops_per_token": flops,
            "sequence_length": batch.sequence_length,
        },
        lineage=None if start.lineage is None else asdict(start.lineage),
        data={"path": str(shards.path), "digest": shards.digest, "train_tokens": shards.tokens("train")},
    )
    lines = {
        "model": f"{model.config.model_type}, {parameter_count(model):,} parameters, {flops / 1e6:,.1f} MFLOP a token",
        "start": start.described,
        **({"trains": plan.trainable.described} if plan.trainable.kind != "all" else {}),
        "data": f"{shards.path}, {shards.tokens('train'):,} training tokens",
        "step": str(batch),
        "length": _length(start, plan),
        "compute": f"{device}, {plan.trainer.precision}, {_strategy(plan)}, compile={plan.trainer.compile}",
        **({"average": str(plan.averaging)} if plan.averaging is not None else {}),
        "run": str(run.path),
        **({"changed": "; ".join(changes)} if changes else {}),
    }
    print("\n".join(f"{name:<8} {value}" for name, value in lines.items()), flush=True)
    if start.warning is not None:
        print(start.warning, flush=True)


def _length(start: Start, plan: Plan) -> str:
    state = start.checkpoint.state if start.checkpoint else None
    left = plan.steps_from(state.tokens if state else 0)
    before = f"{state.step:,} of them done, " if state else ""
    tokens = left * plan.batch.tokens + (state.tokens if state else 0)
    return f"{left + (state.step if state else 0):,} steps, {before}{tokens:,} tokens"


def _strategy(plan: Plan) -> str:
    kind = plan.strategy.kind
    if kind != "single" and not plan.is_distributed:
        return f"one process ({kind} has nobody to share with: the plain strategy is used)"
    return kind


def export_run(start: Start, trained: Trained, run: RunDirectory, shards: TokenShards) -> None:
    """Write the trained model, and its average where there is one, with the data's tokenizer, and close run.json.

    Args:
        start: how the run began.
        trained: what it ended with.
        run: gets the models.
        shards: whose tokenizer goes with them.

    Raises:
        CheckpointError: a model cannot be written.
    """
    if trained.weights is None:
        return
    _name_special_tokens(start.model, shards.eos_id)
    shutil.rmtree(run.average, ignore_errors=True)  # of an export that was killed before the model was written
    if trained.averaged is not None:
        _export(run.average, trained.averaged, start, trained.clock, run, shards)
    _export(run.model, trained.weights, start, trained.clock, run, shards)
    run.finish()
    print(f"Finished {trained.clock.tokens:,} tokens in {trained.clock.seconds:,.1f} s: {run.model}", flush=True)


def _export(
    output: Path,
    weights: Mapping[str, Tensor],
    start: Start,
    clock: Clock,
    run: RunDirectory,
    shards: TokenShards,
) -> None:
    with new_directory(output, sum(tensor.nbytes for tensor in weights.values())) as partial:
        save_model(start.model, weights, partial)
        copy_tokenizer(shards.tokenizer_dir, partial)
        digest = digest_files(weight_files(partial))
        write_lineage(partial, total_spent(start, clock, source=str(run.path), digest=digest))


def total_spent(start: Start, clock: Clock, *, source: str, digest: str) -> Lineage:
    """What a model has cost when its run ends, its source included; unknown where the source's cost is unknown."""
    before = start.lineage
    own = clock.reading()

    def total(name: str) -> Any:
        if before is None:
            return own[name]
        spent = getattr(before, name)
        return None if spent is None else spent + own[name]

    return Lineage(source=source, digest=digest, tokens=total("tokens"), flops=total("flops"), seconds=total("seconds"))


def _name_special_tokens(model: PreTrainedModel, eos_id: int) -> None:
    """Tell a model that names no end or beginning of text what its data used."""
    for name in ("eos_token_id", "bos_token_id"):
        for config in (model.config, model.generation_config):
            if config is not None and getattr(config, name, None) is None:
                setattr(config, name, eos_id)
