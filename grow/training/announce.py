"""Announces a run when it starts: run.json, and a block of lines on the terminal."""

from typing import Any

import torch

from grow.common.printed import say
from grow.data.shards import TokenShards
from grow.distributed.processes import is_first
from grow.families.build import parameter_count, training_flops_per_token
from grow.training.plan import Plan
from grow.training.run_data import write_data_record
from grow.training.run_directory import RunDirectory
from grow.training.start import Start
from grow.training.step.teacher import Teaching

_LARGE = 100_000_000  # parameters
_TOY_TOKENS_PER_STEP, _TOY_LR = 16_384, 1e-3  # trainer=default has 4,096 tokens, optimizer=adamw has this rate


def announce(
    start: Start,
    plan: Plan,
    device: torch.device,
    run: RunDirectory,
    shards: TokenShards,
    config: dict[str, Any],
    changes: list[str],
    teaching: Teaching | None = None,
) -> None:
    """Write run.json and data.json; print what is about to happen, and what has changed since the first start.

    Args:
        start: What the run starts from.
        plan: How it trains.
        device: Device of this rank.
        run: Directory of the run; gets run.json.
        shards: Token shards that it trains on.
        config: Configuration of the command line; run.json gets it with the plan's precision in place of auto.
        changes: A line about each key that differs from the run's first start.
        teaching: Teacher of the run, if it has one.
    """
    if not is_first():
        return
    model, batch = start.model, plan.batch
    flops = training_flops_per_token(model, batch.sequence_length)
    run.start(
        {**config, "trainer": {**config["trainer"], "precision": plan.trainer.precision}},
        changes,
        model={
            "parameters": parameter_count(model),
            "flops_per_token": flops,
            "sequence_length": batch.sequence_length,
        },
        lineage=None if start.lineage is None else start.lineage.as_json(),
        data={"path": str(shards.path), "digest": shards.digest, "train_tokens": shards.tokens("train")},
    )
    write_data_record(run.path, shards)
    lines = _summary(start, plan, device, run, shards, flops)
    if teaching is not None:
        lines["teacher"] = teaching.described
    if changes:
        lines["changed"] = "; ".join(changes)
    say("\n".join(f"{name:<8} {value}" for name, value in lines.items()))
    for warning in (start.grown and start.grown.warning, shards.warning, _toy_settings(plan, parameter_count(model))):
        if warning:
            say(warning)


def _toy_settings(plan: Plan, parameters: int) -> str | None:
    """Return a warning where a model of more than 100M parameters has the settings of one that trains in minutes."""
    toy = {
        f"trainer.tokens_per_step={plan.batch.tokens:,}": plan.batch.tokens <= _TOY_TOKENS_PER_STEP,
        f"optimizer.lr={plan.optimizer.lr}": plan.optimizer.lr >= _TOY_LR,
    }
    if parameters <= _LARGE or not any(toy.values()):
        return None
    found = " and ".join(setting for setting, is_toy in toy.items() if is_toy)
    return (
        f"Warning: {parameters:,} parameters are trained with {found}, which suit a model of a few million. For a real "
        "run take a recipe, e.g. trainer=paper optimizer=adamw_paper checkpoint=paper."
    )


def _summary(
    start: Start, plan: Plan, device: torch.device, run: RunDirectory, shards: TokenShards, flops: int
) -> dict[str, str]:
    """Return what a run is about to do: a name and a value for each line."""
    model = start.model
    return {
        "model": f"{model.config.model_type}, {parameter_count(model):,} parameters, {flops / 1e6:,.1f} MFLOP a token",
        "start": start.described,
        **({"trains": plan.trainable.described} if plan.trainable.kind != "all" else {}),
        "data": f"{shards.path}, {shards.tokens('train'):,} training tokens",
        "step": str(plan.batch),
        "length": _length(start, plan),
        "compute": f"{device}, {plan.trainer.precision}, {_strategy(plan)}, compile={plan.trainer.compile}",
        **({"average": str(plan.averaging)} if plan.averaging is not None else {}),
        "run": str(run.path),
    }


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
