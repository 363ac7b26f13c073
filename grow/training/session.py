"""What a run holds while it trains: its directory, its process group, and the views of its rows."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from grow.loggers.settings import LoggerSettings
from grow.loggers.views import Views, open_views
from grow.training.plan import Plan
from grow.training.processes import process_group
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
