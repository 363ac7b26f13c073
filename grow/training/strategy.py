"""Processes that train together: the group they talk in, and Lightning's strategy over it."""

import datetime
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy

from grow.common.errors import ConfigError
from grow.training.environment import StartedOutside
from grow.training.plan import Plan
from grow.training.zero import build_zero

Value = TypeVar("Value")


def device_of(plan: Plan) -> torch.device:
    """The device this rank computes on.

    Raises:
        ConfigError: a GPU was asked for and there are too few.
    """
    accelerator, ranks, found = plan.trainer.accelerator, plan.ranks, torch.cuda.device_count()
    wants_gpu = accelerator == "gpu" or (accelerator == "auto" and found > 0)
    if not wants_gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed, which saving a model imports, warns of no GPU
        return torch.device("cpu")
    if ranks.local_rank >= found:
        raise ConfigError(
            f"trainer.accelerator={accelerator}: expected a GPU for each of this machine's "
            f"{ranks.local_world_size} ranks, found {found}. Start fewer ranks, or set trainer.accelerator=cpu."
        )
    return torch.device("cuda", ranks.local_rank)


@contextmanager
def process_group(plan: Plan, device: torch.device) -> Iterator[None]:
    """Join the group for the length of a block; a single process has none to join.

    The group exists before Lightning does, so that one rank can grow a model while the others wait. A group that
    ended well ends the process too: gloo's threads now and then abort an interpreter that shuts down after it.
    """
    if not plan.is_distributed:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500"), ("RANK", "0"), ("WORLD_SIZE", "1")):
        os.environ.setdefault(name, value)  # missing only where one process insists on sharding
    # Twice the time after which a rank gives itself up, so that it can say first where it stood.
    timeout = datetime.timedelta(seconds=2 * plan.strategy.timeout_s)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    yield
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


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
        return DDPStrategy(gradient_as_bucket_view=True, broadcast_buffers=False, cluster_environment=environment)
    if plan.strategy.kind == "fsdp2":
        strategy = ModelParallelStrategy(data_parallel_size=plan.ranks.world_size, tensor_parallel_size=1)
        strategy.cluster_environment = environment
        return strategy
    return build_zero(plan, device, parameters, environment)


def is_first() -> bool:
    """Whether this is rank 0 of the group, or the only process."""
    return not dist.is_initialized() or dist.get_rank() == 0


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def from_first(value: Value) -> Value:
    """Rank 0's value, on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Value) -> list[Value]:
    """Every rank's value, in the order of ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Value | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]
