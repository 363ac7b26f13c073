"""The processes that evaluate together: whole batches are dealt to them in turn, and every rank gets every answer."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from grow.common.errors import ConfigError
from grow.training.processes import gather

Value = TypeVar("Value")
Batch = TypeVar("Batch")


@contextmanager
def joined(accelerator: str) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did, for the length of a block; gives this rank's device.

    Raises:
        ConfigError: a GPU was asked for and there are too few.
    """
    local_rank, found = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    on_gpu = accelerator == "gpu" or (accelerator == "auto" and found > 0)
    if on_gpu and local_rank >= found:
        raise ConfigError(
            f"accelerator={accelerator}: expected a GPU for local rank {local_rank}, found {found} in all. Start fewer "
            "processes, or set accelerator=cpu."
        )
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device
        return
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    yield device
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads now and then abort an interpreter that shuts down after a group


def deal(batches: Sequence[Batch], compute: Callable[[Batch], Value]) -> Iterator[list[Value]]:
    """Compute every batch on one rank or another; yields the values of a round, one batch a rank, on every rank.

    Every rank computes as often as every other, which a model in shards needs: in the last round, ranks without a
    batch compute the last one again and nobody listens.
    """
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for start in range(0, len(batches), world_size):
        own = min(start + rank, len(batches) - 1)
        yield gather(compute(batches[own]))[: len(batches) - start]
