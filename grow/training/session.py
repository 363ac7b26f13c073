"""What a run holds while it trains: its directory, its process group, and the views of its rows."""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from grow.distributed.processes import group, local_device
from grow.loggers.settings import LoggerSettings
from grow.loggers.views import Views, open_views
from grow.training.plan import Plan
from grow.training.run_directory import RunDirectory


@contextmanager
def session(plan: Plan, device: torch.device, directory: RunDirectory, logger: LoggerSettings) -> Iterator[Views]:
    """Hold all three for the length of a block; the group, which ends the process, goes after the views.

    Raises:
        ConfigError: another process trains in the directory, or a view cannot be opened.
        CheckpointError: the directory cannot be written.
    """
    first = plan.ranks.is_first
    with (
        directory.locked() if first else nullcontext(),
        process_group(plan, device),
        open_views(logger, directory.path, shown=first) as views,
    ):
        yield views


def device_of(plan: Plan) -> torch.device:
    """The device this rank computes on.

    Raises:
        ConfigError: a GPU was asked for and there are too few.
    """
    return local_device("trainer.accelerator", plan.trainer.accelerator, plan.ranks.local_rank)


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
