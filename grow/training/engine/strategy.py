"""Lightning's strategy for a run: how weights, gradients and optimizer state are spread over its processes."""

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from grow.training.engine.environment import StartedOutside
from grow.training.engine.fsdp import FullyShardedStrategy
from grow.training.engine.zero import build_zero
from grow.training.plan import Plan


def build_strategy(plan: Plan, device: torch.device, parameters: int) -> Strategy:
    """Lightning's strategy for the plan; the plain one where there is nobody to share with.

    Args:
        plan: kind of strategy, and the processes.
        device: of this rank.
        parameters: of the model.
    """
    if not plan.is_distributed:
        return SingleDeviceStrategy(device=device)
    environment = StartedOutside(plan.ranks)
    if plan.strategy.kind == "ddp":
        return DDPStrategy(
            gradient_as_bucket_view=True,
            broadcast_buffers=False,
            find_unused_parameters=plan.trainable.kind == "submodel",  # other ones each step, alike on all ranks
            cluster_environment=environment,
        )
    if plan.strategy.kind == "fsdp2":
        return FullyShardedStrategy(plan.ranks.world_size, environment)
    return build_zero(plan, device, parameters, environment)
