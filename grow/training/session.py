"""What a run holds while it trains: its directory, its process group, the views of its rows, and its data."""

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from grow.common import provenance
from grow.data.data_module import TokenDataModule
from grow.data.manifest import TOKENIZER_DIR
from grow.data.mixture import Mixture
from grow.data.run_order import run_order
from grow.data.settings import DataSettings
from grow.data.shards import TokenShards
from grow.distributed.processes import from_first, group, local_device, on_first
from grow.families.source_directory import find_source
from grow.loggers.settings import LoggerSettings
from grow.loggers.views import Views, open_views
from grow.preparation.corpus import open_data
from grow.training.plan import Plan
from grow.training.run_directory import RunDirectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """What is open while a run trains."""

    views: Views
    changes: list[str]
    """A line for each key that differs from the run's last start."""


@contextmanager
def session(
    plan: Plan,
    device: torch.device,
    directory: RunDirectory,
    config: dict[str, Any],
    resume: str,
    logger: LoggerSettings,
) -> Iterator[Session | None]:
    """Enter the directory, join the process group and open the views for the length of a block.

    The views close before the group does, since leaving the group may end the process.

    Args:
        plan: Ranks and strategy of the run.
        device: Device of this rank.
        directory: Directory to lock.
        config: Configuration of the command line, as plain data.
        resume: How it may differ from that of the run in the directory.
        logger: Settings of the views.

    Yields:
        What is open; None where the run turns out to be finished.

    Raises:
        ConfigError: another process trains in the directory, or a view cannot be opened.
        CheckpointError: the directory cannot be written or locked.
    """
    first = plan.ranks.is_first
    with directory.entered(config, resume) if first else nullcontext() as changes, process_group(plan, device):
        changes = from_first(changes)
        if changes is None:
            yield None
            return
        with open_views(logger, directory.path, shown=first) as views:
            yield Session(views=views, changes=changes)


def device_of(plan: Plan) -> torch.device:
    """Return the device this rank computes on.

    Raises:
        ConfigError: a GPU was asked for and there are too few.
    """
    return local_device("trainer.accelerator", plan.trainer.accelerator, plan.ranks.local_rank)


def open_shards(settings: DataSettings, source: str | None, run: RunDirectory) -> TokenShards:
    """Open the token shards of a run; a grown model keeps its source's tokenizer.

    A run that continues has that tokenizer in its shards, so its source may be gone. Else rank 0 finds the source, in
    the hub perhaps, while the others wait.

    Args:
        settings: Settings that name the shards.
        source: Checkpoint directory, run directory or hub id that the run grows from; None for noise.
        run: Directory of the run.

    Raises:
        CheckpointError: the source is missing, or the hub cannot be reached.
        DataError: the shards are missing, damaged or of another tokenizer.
    """
    return TokenShards.open(on_first(lambda: open_data(settings, _tokenizer(source, run)).path))


def _tokenizer(source: str | None, run: RunDirectory) -> Path | None:
    """Return a directory with the tokenizer of a run that grows from a source; None where it grows from none."""
    if source is None:
        return None
    shards = provenance.data_of(run.path) if run.newest_step is not None else None
    kept = None if shards is None else shards / TOKENIZER_DIR
    return kept if kept is not None and kept.is_dir() else find_source(source)


def data_of(settings: DataSettings, shards: TokenShards, plan: Plan) -> Callable[..., TokenDataModule]:
    """Return what makes the data module of this rank; it takes `start_sequence`, the first sequence to train on.

    Args:
        settings: Configuration of the data.
        shards: Token shards to read.
        plan: Batch, seed and ranks of the run.

    Raises:
        ConfigError: the mixture names a source that there is not, or a source would be read too often.
    """
    length = plan.batch.sequence_length
    stages = None if settings.stages is None else [asdict(stage) for stage in settings.stages]
    mixture = Mixture.of(settings.mixture, stages, length)
    if len(windows := shards.windows("train", length)):  # else the data module says what is missing
        end = plan.steps_from(0) * plan.batch.tokens // length
        run_order(windows, plan.seed, mixture).check_epochs(end, settings.max_epochs)
    return partial(
        TokenDataModule,
        shards,
        sequence_length=length,
        micro_batch=plan.batch.micro_batch,
        seed=plan.seed,
        val_tokens=plan.trainer.val_tokens,
        rank=plan.ranks.rank,
        world_size=plan.ranks.world_size,
        damaged_tokens=settings.damaged_tokens,
        mixture=mixture,
        read_ahead=settings.read_ahead,
    )


@contextmanager
def process_group(plan: Plan, device: torch.device) -> Iterator[None]:
    """Join a run's process group for the length of a block; a single process has none to join.

    It is created before Lightning's trainer, so that one rank can grow a model while the others wait.
    """
    if not plan.is_distributed:
        yield
        return
    for name, value in (("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500"), ("RANK", "0"), ("WORLD_SIZE", "1")):
        os.environ.setdefault(name, value)  # missing only where one process insists on sharding
    # Twice the watchdog's timeout, so that the watchdog can say first where the rank stood.
    with group(device, datetime.timedelta(seconds=2 * plan.strategy.timeout_s)):
        yield
