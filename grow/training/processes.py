"""Processes that train together: the device each computes on, the group they talk in, what they tell one another."""

import datetime
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from grow.common.errors import ConfigError
from grow.training.plan import Plan

Value = TypeVar("Value")


def device_of(plan: Plan) -> torch.device:
    """The device this rank computes on.

    Raises:
        ConfigError: a GPU was asked for and there are too few.
    """
    return local_device("trainer.accelerator", plan.trainer.accelerator, plan.ranks.local_rank)


def local_device(key: str, accelerator: str, local_rank: int) -> torch.device:
    """The device of a machine's n-th rank.

    Args:
        key: of the configuration, that `accelerator` (auto, cpu or gpu) is the value of.
        accelerator: what was asked for.
        local_rank: n, from 0.

    Raises:
        ConfigError: a GPU was asked for and there are too few.
    """
    found = torch.cuda.device_count()
    if accelerator == "cpu" or (accelerator == "auto" and found == 0):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed, which saving a model imports, warns of no GPU
        return torch.device("cpu")
    if local_rank >= found:
        raise ConfigError(
            f"{key}={accelerator}: expected a GPU for each rank of this machine, {local_rank + 1} or more, found "
            f"{found}. Start fewer ranks, or set {key}=cpu."
        )
    return torch.device("cuda", local_rank)


@contextmanager
def process_group(plan: Plan, device: torch.device) -> Iterator[None]:
    """Join a run's group for the length of a block; a single process has none to join.

    The group exists before Lightning does, so that one rank can grow a model while the others wait.
    """
    if not plan.is_distributed:
        yield
        return
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500"), ("RANK", "0"), ("WORLD_SIZE", "1")):
        os.environ.setdefault(name, value)  # missing only where one process insists on sharding
    # Twice the time after which a rank gives itself up, so that it can say first where it stood.
    with group(device, datetime.timedelta(seconds=2 * plan.strategy.timeout_s)):
        yield


@contextmanager
def group(device: torch.device, timeout: datetime.timedelta | None = None) -> Iterator[None]:
    """Join the group that the environment describes for the length of a block.

    A group that ended well ends the process too: gloo's threads now and then abort an interpreter that shuts down
    after it.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    yield
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


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
