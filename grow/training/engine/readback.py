"""Reads the settings back from the engine that will train: a run stops where the engine dropped or changed one."""

from typing import Any

import lightning.pytorch as L
import torch

from grow.common.errors import ConfigError
from grow.training.checkpoints.fragments import base_optimizer
from grow.training.plan import Plan


def check_engine(trainer: L.Trainer, plan: Plan) -> None:
    """Refuse an engine whose clipping, precision, accumulation, batch or optimizer differ from the plan.

    Raises:
        ConfigError: the engine would train with other settings than the plan's.
    """
    found = _found(trainer)
    wrong = [
        f"{name}: asked for {expected}, the engine has {found[name]}"
        for name, expected in _expected(plan).items()
        if name in found and found[name] != expected
    ]
    if wrong:
        raise ConfigError(
            f"strategy={plan.strategy.name}: the engine was not set up as asked ({'; '.join(wrong)}). Nothing was "
            "trained. Remove settings of DeepSpeed or Lightning from the environment, or choose another strategy."
        )


def _expected(plan: Plan) -> dict[str, Any]:
    settings, batch = plan.optimizer, plan.batch
    return {
        "optimizer.max_grad_norm": settings.max_grad_norm,
        "accumulated micro-batches": batch.accumulation,
        "trainer.micro_batch": batch.micro_batch,
        "sequences a step": batch.micro_batch * batch.accumulation * batch.world_size,
        "ZeRO stage": int(plan.strategy.kind[-1]) if plan.strategy.kind.startswith("zero") else 0,
        "weights": torch.bfloat16 if plan.keeps_bf16_weights else torch.float32,
        "optimizer": "AdamW",
        "optimizer.betas": tuple(settings.betas),
        "optimizer.eps": settings.eps,
        "highest optimizer.lr": settings.lr,
    }


def _found(trainer: L.Trainer) -> dict[str, Any]:
    engine = getattr(trainer.strategy, "deepspeed_engine", None)
    optimizer = base_optimizer(trainer.optimizers[0])
    of_optimizer = {
        "weights": next(trainer.lightning_module.parameters()).dtype,
        "optimizer": type(optimizer).__name__,
        "optimizer.betas": tuple(optimizer.param_groups[0]["betas"]),
        "optimizer.eps": optimizer.param_groups[0]["eps"],
        "highest optimizer.lr": max(group["peak_lr"] for group in optimizer.param_groups),
    }
    if engine is None:
        return {
            "optimizer.max_grad_norm": trainer.gradient_clip_val or 0,
            "accumulated micro-batches": trainer.accumulate_grad_batches,
            **of_optimizer,
        }
    return {
        "optimizer.max_grad_norm": engine.optimizer.clip_grad,
        "accumulated micro-batches": engine.gradient_accumulation_steps(),
        "trainer.micro_batch": engine.train_micro_batch_size_per_gpu(),
        "sequences a step": engine.train_batch_size(),
        "ZeRO stage": int(engine.zero_optimization_stage()),
        **of_optimizer,
    }
