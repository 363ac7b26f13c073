"""The processes that evaluate together: whole batches are dealt to them in turn, and every rank gets every answer."""

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
    """Join the processes that torchrun started, if it did, for the length of a block; gives this rank's device.

    Raises:
        ConfigError: a GPU was asked for and there are too few.
    """
    device = local_device("accelerator", accelerator, int(os.environ.get("LOCAL_RANK", 0)))
    with group(device) if int(os.environ.get("WORLD_SIZE", 1)) > 1 else nullcontext():
        yield device


def deal(batches: Sequence[Batch], compute: Callable[[Batch], Value]) -> Iterator[list[Value]]:
    """Compute every batch on one rank or another; yields the values of a round, one batch a rank, on every rank.

    Every rank computes as often as every other, which a model in shards needs: in the last round, ranks without a
    batch compute the last one again and nobody listens.
    """
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for start in range(0, len(batches), world_size):
        own = min(start + rank, len(batches) - 1)
        yield gather(compute(batches[own]))[: len(batches) - start]
