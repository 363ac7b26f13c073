"""The process group of a run: the device of each process, joining the group, and exchanging Python objects."""

import datetime
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from grow.common.errors import ConfigError, GrowError

Value = TypeVar("Value")


def local_device(key: str, accelerator: str, local_rank: int) -> torch.device:
    """Return the device of a rank of this machine.

    Args:
        key: Configuration key that `accelerator` is the value of, for messages.
        accelerator: One of auto, cpu and gpu.
        local_rank: Rank within this machine, from 0.

    Raises:
        ConfigError: a GPU was asked for and there are too few.
    """
    found = torch.cuda.device_count()
    if accelerator == "cpu" or (accelerator == "auto" and found == 0):
        os.environ.setdefault(
            "DS_ACCELERATOR", "cpu"
        )  # else DeepSpeed, imported by save_pretrained, warns that there is no GPU
        return torch.device("cpu")
    if local_rank >= found:
        raise ConfigError(
            f"{key}={accelerator}: expected a GPU for each rank of this machine, {local_rank + 1} or more, found "
            f"{found}. Start fewer ranks, or set {key}=cpu."
        )
    return torch.device("cuda", local_rank)


@contextmanager
def group(device: torch.device, timeout: datetime.timedelta | None = None) -> Iterator[None]:
    """Join the process group that the environment describes, for the duration of a `with` block.

    A block that ends without an error also ends the process, as gloo's threads sometimes abort an interpreter that
    shuts down normally.

    Args:
        device: Device of this rank, which decides between nccl and gloo.
        timeout: Longest time that a rank waits for the others; None takes torch's.
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
    """Return whether this is rank 0 of the group, or the only process."""
    return not dist.is_initialized() or dist.get_rank() == 0


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def from_first(value: Value) -> Value:
    """Return rank 0's value on every rank; a broadcast."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def on_first(job: Callable[[], Value]) -> Value:
    """Do a job on rank 0 alone, and return its value on every rank.

    Raises:
        GrowError: the job's, on every rank.
    """
    result: Value | GrowError | None = None
    if is_first():
        try:
            result = job()
        except GrowError as error:
            result = error
    result = from_first(result)
    if isinstance(result, GrowError):
        raise result
    return result  # type: ignore[return-value]


def own_share(items: Sequence[Value]) -> list[Value]:
    """Return this rank's share of a list that all ranks have: every n-th item on n ranks."""
    return list(items[dist.get_rank() :: dist.get_world_size()]) if dist.is_initialized() else list(items)


def all_agree(own: bool) -> bool:
    """Return whether a condition holds on every rank; an all-reduce of one number."""
    if not dist.is_initialized():
        return own
    verdict = torch.tensor(float(own), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(verdict, dist.ReduceOp.MIN)
    return bool(verdict)


def gather(value: Value) -> list[Value]:
    """Return every rank's value, in the order of ranks; an all-gather."""
    if not dist.is_initialized():
        return [value]
    values: list[Value | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]
