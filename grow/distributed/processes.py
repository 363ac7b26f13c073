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

Value = TypeVar("Value")


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
