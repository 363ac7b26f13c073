"""Writes a run's checkpoints: state is copied between two steps and written during the next, completely or not at all.

Every rank writes the moments it keeps, and digests them as it does. Rank 0 writes the rest, waits for the others'
files, writes COMPLETE.json and renames the directory to its final name. Ranks do not communicate while they write: a
file rank-N.done says that rank N has written its part, and has its files' digests.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from grow.averaging.swap import is_averaged
from grow.common.checkpoint_names import checkpoint_name
from grow.common.clock import Clock
from grow.common.digests import file_digest
from grow.common.errors import CheckpointError
from grow.common.files import check_space, disk_errors_named
from grow.common.provenance import COMPLETE_FILE, write_json
from grow.common.records import read_json
from grow.common.temporary import settle, to_disk
from grow.distributed.processes import barrier, gather
from grow.distributed.ranks import Ranks
from grow.training.checkpoint_size import checkpoint_bytes
from grow.training.checkpoints.checkpoint_reader import RNG_FILE, STARTS
from grow.training.checkpoints.digested_file import save_digested
from grow.training.checkpoints.fragments import Fragment, base_optimizer, full_weights, owned_fragments
from grow.training.checkpoints.retention import put_in_place, remove_unfinished, retire
from grow.training.checkpoints.run_average import RunAverage
from grow.training.checkpoints.run_state import RunState, write_state

_DIGEST_THREADS = 4  # for the weights, which transformers writes


@dataclass(kw_only=True, slots=True)
class CheckpointWriter:
    """Writes checkpoints, and removes those that are no longer kept."""

    directory: Path
    ranks: Ranks
    keep_last: int
    keep_windows: bool
    """Whether a permanent checkpoint keeps its averaging window when a newer checkpoint exists."""
    background: bool
    timeout_s: float
    """Seconds that rank 0 waits for another rank's file."""
    sequence_length: int
    input_copies: Mapping[str, float]
    records: Sequence[Path] = ()
    """Files outside the checkpoint that have to be on disk before it is complete, such as metrics.jsonl."""
    _writing: threading.Thread | None = field(default=None, repr=False)
    _failure: BaseException | None = field(default=None, repr=False)

    def save(
        self,
        kind: str,
        model: PreTrainedModel,
        optimizer: Any,
        clock: Clock,
        *,
        metrics_bytes: int,
        skipped: int,
        average: RunAverage | None,
    ) -> None:
        """Copy the state after a step and start to write it; every rank calls this after the same step.

        Args:
            kind: One of permanent, rolling and preemption.
            model: Model as it trains.
            optimizer: Optimizer as Lightning holds it.
            clock: Clock of the run, for tokens, step and seconds.
            metrics_bytes: Length of metrics.jsonl.
            skipped: Steps skipped so far.
            average: Average of the weights. Its snapshots are not copied, so call `wait` before the next one is taken.

        Raises:
            CheckpointError: the disk is full or read-only, now or while the last checkpoint was written.
            ValueError: the model holds averaged weights.
        """
        if is_averaged(model.parameters()):
            raise ValueError("expected the live weights, found averaged weights: a run would continue from them")
        self.wait()
        partial = self.directory / f".{checkpoint_name(clock.step)}.partial"
        final = self.directory / checkpoint_name(clock.step)
        if self.ranks.is_first:
            self._prepare(partial, final, _bytes_of(model, average))
        rng = gather(_rng_state())  # also a barrier: no rank continues before rank 0 has made the directory
        weights, shard = full_weights(model), _Shard(owned_fragments(model, optimizer))
        state = RunState(
            kind=kind,
            step=clock.step,
            tokens=clock.tokens,
            seconds=clock.seconds,
            flops=clock.flops,
            sequences=clock.tokens // self.sequence_length,
            updates=_updates(base_optimizer(optimizer)),
            updates_of_groups=_updates_of_groups(base_optimizer(optimizer)),
            metrics_bytes=metrics_bytes,
            skipped=skipped,
            input_copies=dict(self.input_copies),
            average=None if average is None else average.average.state(),
        )
        self._start(lambda: self._write(partial, final, state, model, weights, shard, average, _by_rank(rng)))

    def wait(self) -> None:
        """Wait until this rank's last checkpoint is written.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise why this rank's last checkpoint could not be written, as soon as that is known; waits for nothing.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def finish(self) -> None:
        """Wait until every rank's last checkpoint is written, so that processes may end."""
        self.wait()
        barrier()

    def _prepare(self, partial: Path, final: Path, needed_bytes: int) -> None:
        with disk_errors_named(final):
            self.directory.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.directory)
            check_space(self.directory, needed_bytes, final)
            partial.mkdir()

    def _start(self, job: Callable[[], None]) -> None:
        def run() -> None:
            try:
                job()
            except BaseException as error:  # `wait` raises it again
                self._failure = error

        self._writing = threading.Thread(target=run, name="checkpoint")
        self._writing.start()
        if not self.background:
            self.wait()

    def _write(
        self,
        partial: Path,
        final: Path,
        state: RunState,
        model: PreTrainedModel,
        weights: dict[str, Tensor] | None,
        shard: "_Shard",
        average: RunAverage | None,
        rng: dict[str, Tensor],
    ) -> None:
        rank = f"{self.ranks.rank:05}-of-{self.ranks.world_size:05}.safetensors"
        with disk_errors_named(final):
            digests = {f"optimizer-{rank}": shard.write(partial / f"optimizer-{rank}")}
            if average is not None:
                digests[f"average-{rank}"] = _write_average(average, partial / f"average-{rank}")
            if weights is None:  # not rank 0
                write_json(_done_file(partial, self.ranks.rank), digests)
                return
            save_model(model, weights, partial)
            save_file(rng, partial / RNG_FILE)
            write_state(partial, state)
            digests |= self._digests_of_others(partial)
            for file in partial.iterdir():
                if file.name not in digests:
                    digests[file.name] = file_digest(file, _DIGEST_THREADS)
            for file in self.records:
                if file.exists():
                    to_disk(file)
            write_json(partial / COMPLETE_FILE, dict(sorted(digests.items())))
            settle(partial)
            put_in_place(partial, final)
            for directory in (self.directory, self.directory.parent):
                to_disk(directory)
            retire(self.directory, state, self.keep_last, keep_windows=self.keep_windows)

    def _digests_of_others(self, partial: Path) -> dict[str, str]:
        """Wait for the other ranks' files and return the files' digests by name."""
        digests: dict[str, str] = {}
        deadline = time.monotonic() + self.timeout_s
        for rank in range(1, self.ranks.world_size):
            done = _done_file(partial, rank)
            while not done.exists():
                if time.monotonic() > deadline:
                    raise CheckpointError(f"{partial}: rank {rank} has not written its part in {self.timeout_s:.0f} s.")
                time.sleep(0.01)
            digests |= read_json(done)
            done.unlink()
        return digests


class _Shard:
    """A copy of this rank's moments in host memory."""

    def __init__(self, fragments: Sequence[Fragment]) -> None:
        self._starts = {fragment.name: fragment.start for fragment in fragments}
        self._tensors = {
            f"{fragment.name}/{moment}": view.to("cpu", copy=True)
            for fragment in fragments
            for moment, view in fragment.moments.items()
        }

    def write(self, path: Path) -> str:
        return save_digested(self._tensors, path, {STARTS: json.dumps(self._starts)})


def _write_average(average: RunAverage, path: Path) -> str:
    starts = {fragment.name: fragment.start for fragment in average.fragments}
    return save_digested(dict(average.average.tensors()), path, {STARTS: json.dumps(starts)})


def save_model(model: PreTrainedModel, weights: Mapping[str, Tensor], directory: Path) -> None:
    """Write a stock model directory with these weights in place of the model's own.

    Args:
        model: Model whose configuration and tied names are used.
        weights: Value of every parameter, by name.
        directory: Directory to write to.
    """
    tied = {name: weights[first] for name, first in _tied_names(model).items()}
    model.save_pretrained(directory, state_dict={**weights, **tied})


def _tied_names(model: PreTrainedModel) -> dict[str, str]:
    """Return further names of parameters that the model holds twice, and the name under which each is listed."""
    listed = {id(parameter): name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: listed[id(parameter)] for name, parameter in every if listed[id(parameter)] != name}


def _bytes_of(model: PreTrainedModel, average: RunAverage | None) -> int:
    """Return the bytes of the next checkpoint."""
    parameters: Iterable[Any] = model.parameters()
    elements = sum(getattr(each, "ds_numel", each.numel()) for each in parameters)  # under ZeRO-3 it is empty itself
    if average is None:
        return checkpoint_bytes(elements, None)
    return checkpoint_bytes(elements, average.average.plan, average.average.count)


def _updates(optimizer: Optimizer) -> int:
    return max((int(state["step"]) for state in optimizer.state.values()), default=0)


def _updates_of_groups(optimizer: Optimizer) -> list[int]:
    groups = optimizer.param_groups
    if not any(group["block"] for group in groups):
        return []
    return [int(optimizer.state[group["params"][0]]["step"]) for group in groups]


def _done_file(partial: Path, rank: int) -> Path:
    return partial / f"rank-{rank:05}.done"


def _rng_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _by_rank(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{rank}.{kind}": tensor for rank, state in enumerate(states) for kind, tensor in state.items()}
