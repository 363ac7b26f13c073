"""Evaluation on several ranks: whole batches are distributed to them in turn, and every rank gets every answer."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
import torch.distributed as dist

from grow.distributed.processes import gather, group, local_device

Value = TypeVar("Value")
Batch = TypeVar("Batch")


@contextmanager
def joined(accelerator: str) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if any, for the length of a block; yield this rank's device.

    Args:
        accelerator: Kind of device: auto, cpu or gpu.

    Raises:
        ConfigError: the configuration needs more GPUs than there are.
    """
    device = local_device("accelerator", accelerator, int(os.environ.get("LOCAL_RANK", 0)))
    with group(device) if int(os.environ.get("WORLD_SIZE", 1)) > 1 else nullcontext():
        yield device


def distribute(batches: Sequence[Batch], compute: Callable[[Batch], Value]) -> Iterator[list[Value]]:
    """Compute batches in rounds, one batch on each rank; yield the values of each round, in order, on every rank.

    All ranks compute equally often, as a model in shards requires: in the last round, ranks without a batch of their
    own compute the last batch again, and those values are discarded.
    """
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for start in range(0, len(batches), world_size):
        own = min(start + rank, len(batches) - 1)
        yield gather(compute(batches[own]))[: len(batches) - start]
