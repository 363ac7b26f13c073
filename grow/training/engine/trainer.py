"""Builds the module around a model, and Lightning's Trainer around the module."""

import logging
import warnings
from collections.abc import Mapping
from functools import partial

import lightning.pytorch as L
import torch
from transformers import PreTrainedModel

from grow.common.clock import Clock
from grow.families.build import logit_cap
from grow.training.engine.compilation import compile_in_place
from grow.training.engine.fsdp import shard_fully
from grow.training.engine.strategy import build_strategy
from grow.training.plan import Plan
from grow.training.step.module import PretrainModule
from grow.training.step.objective import NextTokenLoss
from grow.training.step.routing import prepare_experts, routing_of
from grow.training.step.schedule import multiplier
from grow.training.step.teacher import Teaching
from grow.training.step.trainable import TrainableSet


def build_module(
    model: PreTrainedModel,
    plan: Plan,
    clock: Clock,
    input_copies: Mapping[str, float],
    trainable: TrainableSet,
    teaching: Teaching | None = None,
) -> PretrainModule:
    """Build the module of a model with its loss, optimizer and schedule.

    The model is compiled in place, so that its parameters keep their names.
    """
    prepare_experts(model, plan.experts)
    compile_in_place(model, plan.trainer.compile)
    return PretrainModule(
        model,
        objective=NextTokenLoss(
            chunk_rows=plan.objective.chunk_rows, compiled=plan.trainer.compile != "none", cap=logit_cap(model.config)
        ),
        optimizer=plan.optimizer,
        multiplier=partial(multiplier, plan.schedule, max_tokens=plan.trainer.max_tokens),
        clock=clock,
        input_copies=input_copies,
        trainable=trainable,
        autocast=plan.autocasts,
        teaching=teaching,
        routing=routing_of(model, plan.experts),
        shard=shard_fully if plan.is_distributed and plan.strategy.kind == "fsdp2" else None,
    )


def build_trainer(
    plan: Plan, device: torch.device, *, parameters: int, steps: int, callbacks: list[L.Callback]
) -> L.Trainer:
    """Build a Lightning Trainer; logging, validation, checkpoints and progress bar are off, as Grow does them itself.

    Args:
        plan: Precision, clipping, batch and processes.
        device: Device of this rank.
        parameters: Number of parameters of the model.
        steps: Optimizer steps that this start of the run takes.
        callbacks: Callbacks, called in this order.
    """
    _silence_lightning()
    _allow_tensor_cores(plan, device)
    ranks = plan.ranks
    return L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=ranks.local_world_size,
        num_nodes=ranks.world_size // ranks.local_world_size,
        strategy=build_strategy(plan, device, parameters),
        precision="bf16-mixed" if plan.keeps_bf16_weights else "32-true",  # autocast is the module's
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=plan.batch.accumulation,
        gradient_clip_val=plan.optimizer.max_grad_norm or None,
        callbacks=callbacks,
        use_distributed_sampler=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _allow_tensor_cores(plan: Plan, device: torch.device) -> None:
    """Let a GPU multiply in TF32 what autocast leaves in float32; fp32 means all bits of float32, as on a CPU."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if plan.trainer.precision == "fp32" else "high")


def _silence_lightning() -> None:
    """Hide Lightning's start-up lines and its warnings, such as the advice to use more loader workers."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", module="lightning.*")
