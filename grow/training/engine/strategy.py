"""Lightning's strategy for a run: how weights, gradients and optimizer state are distributed over its processes."""

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from grow.training.engine.environment import StartedOutside
from grow.training.engine.fsdp import FullyShardedStrategy
from grow.training.engine.zero import build_zero
from grow.training.plan import Plan


def build_strategy(plan: Plan, device: torch.device, parameters: int) -> Strategy:
    """Build Lightning's strategy for the plan; a single process gets the single-device strategy.

    Args:
        plan: Kind of strategy, and the processes.
        device: Device of this rank.
        parameters: Number of parameters of the model.
    """
    if not plan.is_distributed:
        return SingleDeviceStrategy(device=device)
    environment = StartedOutside(plan.ranks)
    if plan.strategy.kind == "ddp":
        return DDPStrategy(
            gradient_as_bucket_view=True,
            broadcast_buffers=False,
            find_unused_parameters=plan.trainable.kind
            == "submodel",  # different ones at each step, the same on all ranks
            cluster_environment=environment,
        )
    if plan.strategy.kind == "fsdp2":
        return FullyShardedStrategy(plan.ranks.world_size, environment)
    return build_zero(plan, device, parameters, environment)
