"""The directory of a run: what it is called inside, and whether a configuration may continue what it holds."""

import datetime
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from grow.common.aside import move_aside
from grow.common.checkpoint_names import checkpoint_name
from grow.common.errors import ConfigError
from grow.common.files import disk_errors_named
from grow.common.identity import asks_for, flat, is_watching, may_change
from grow.common.locks import LockHeldError, lock
from grow.common.printed import say
from grow.common.provenance import (
    COMPLETE_FILE,
    GROWTH_FILE,
    METRICS_FILE,
    RUN_FILE,
    clock_of,
    git_commit,
    versions,
    write_record,
)
from grow.common.records import read_object
from grow.common.redact import redacted
from grow.common.temporary import finish_publishing
from grow.distributed.ranks import restarted
from grow.training.run_data import check_same_past

LOCK_FILE = ".lock"
_MIXTURES = ("data.mixture", "data.stages")
RESUME = EXACT, CHANGED, FRESH = "exact", "changed", "fresh"


@dataclass(kw_only=True, slots=True)
class _History:
    """What run.json says that a run which continues takes over."""

    config: dict[str, Any]
    started: str = ""
    changes: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of a run, and its run.json."""

    path: Path

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.path / "model"

    @property
    def average(self) -> Path:
        """The exported average of the weights."""
        return self.path / "average"

    @property
    def metrics(self) -> Path:
        """Rows of the run, one JSON object a line."""
        return self.path / METRICS_FILE

    @property
    def record(self) -> Path:
        """The run's configuration, versions and lineage."""
        return self.path / RUN_FILE

    @property
    def growth(self) -> Path:
        """Record of the growth that the run began with."""
        return self.path / GROWTH_FILE

    @property
    def checkpoints(self) -> Path:
        """Checkpoints that the run continues from."""
        return self.path / "checkpoints"

    def window(self, rank: int) -> Path:
        """Return where a rank keeps the snapshots of averaging.storage=disk."""
        return self.path / "window" / f"rank-{rank:05}"

    @property
    def is_finished(self) -> bool:
        """Whether the run exported its model; an export appears whole or not at all."""
        return self.model.is_dir()

    @property
    def precision(self) -> str | None:
        """Precision that the run began with; None where no run has begun here."""
        begun = (self.path / RUN_FILE).exists()
        return self.read()["config"]["trainer"]["precision"] if begun else None

    @property
    def newest_step(self) -> int | None:
        """Step of the newest complete checkpoint; None where there is none."""
        complete = self.checkpoints.glob(f"step-*/{COMPLETE_FILE}")
        steps = [path.parent.name.removeprefix("step-") for path in complete]
        return max((int(step) for step in steps if step.isdecimal()), default=None)

    @property
    def _holds_a_run(self) -> bool:
        return self.record.exists() or self.metrics.exists() or self.checkpoints.exists()

    def say_finished(self) -> None:
        """Print that there is nothing left to train here."""
        say(f"{self.path} is finished: its model is {self.model}. To train again, choose another run_dir.")

    @contextmanager
    def entered(self, config: dict[str, Any], resume: str) -> Iterator[list[str] | None]:
        """Lock the directory for the length of a block, and decide there whether and how the run continues.

        Args:
            config: Configuration of the command line, as plain data.
            resume: One of RESUME.

        Yields:
            A line for each key that differs from the run's last start; None where the run is finished.

        Raises:
            ConfigError: another process trains in this directory, or a key differs that may not.
            CheckpointError: the directory cannot be written or locked.
        """
        with ExitStack() as locks:
            locks.enter_context(self._locked())
            if resume == FRESH and restarted():
                say(f"notice: resume={FRESH} holds for a job's first start; this one continues it.")
                resume = EXACT
            if resume == FRESH and self._holds_a_run:
                self._move_aside()
                locks.enter_context(self._locked())  # the first lock moved with the old run
            for exported in (self.model, self.average):
                finish_publishing(exported)
            yield None if self.is_finished else self.check_continues(config, resume)

    def _move_aside(self) -> None:
        directory = self.path.resolve()  # a link stays where it is
        say(f"notice: the run of {self.path} is now {move_aside(directory)}.")
        directory.mkdir()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out of this run for the length of a block; the lock of a killed process is gone with it.

        Raises:
            ConfigError: another process trains in this directory.
            CheckpointError: the directory cannot be written or locked.
        """
        is_new = not self.path.exists()
        with disk_errors_named(self.path):
            try:
                file = self._lock()
            except LockHeldError as error:
                raise ConfigError(
                    f"{self.path}: another process trains in this directory ({error.args[0] or 'unknown'}). "
                    "Wait for it, stop it, or choose another run_dir."
                ) from None
        with file:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            try:
                yield
            finally:
                if is_new:
                    self._remove_if_unused()

    def _lock(self) -> IO[str]:
        """Make the directory where it is missing, and lock it."""
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another start failed meanwhile and removed the directory that it made
                return lock(self.path / LOCK_FILE)

    def _remove_if_unused(self) -> None:
        """Remove the directory if the lock is all that it holds: a start that failed leaves none behind."""
        if [path.name for path in self.path.iterdir()] == [LOCK_FILE]:
            with suppress(OSError):
                (self.path / LOCK_FILE).unlink()
                self.path.rmdir()

    def check_continues(self, config: dict[str, Any], resume: str) -> list[str]:
        """Compare a configuration with the one that the run was started with.

        Args:
            config: Configuration of the command line, as plain data.
            resume: Value of resume: exact to refuse whatever changes the numbers; changed to accept the keys that may
                change on request; fresh to accept everything, since the run will be moved aside.

        Returns:
            A line for each key that differs.

        Raises:
            ConfigError: a key differs that may not; all of them are named. Or a mixture differs behind the run.
        """
        if resume == FRESH or not self.record.exists():
            return []
        before, now = flat(redacted(self.read()["config"])), flat(redacted(config))
        differing = {
            key: f"{key}: {before.get(key)!r} there, {now.get(key)!r} here"
            for key in sorted(before.keys() | now.keys())
            if not is_watching(key) and not asks_for(key, now.get(key), before.get(key))
        }
        refused = [key for key in differing if not may_change(key, resume)]
        if refused:
            changeable = all(may_change(key, "changed") for key in refused)
            raise ConfigError(
                f"{self.path} holds a run of another configuration ({'; '.join(differing[key] for key in refused)}). "
                + ("Add resume=changed to go on with the values given here, or choose" if changeable else "Choose")
                + " another run_dir, or remove this one."
            )
        if any(key.startswith(_MIXTURES) for key in differing) and self.newest_step is not None:
            tokens = clock_of(self.checkpoints / checkpoint_name(self.newest_step))["tokens"]
            data = self.read()["config"]["data"]
            check_same_past(self.path, tokens // data["sequence_length"], data, config["data"])
        return list(differing.values())

    def read(self) -> dict[str, Any]:
        """Return the content of run.json.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        return read_object(self.record, _History)

    def start(self, config: dict[str, Any], changes: list[str], **facts: Any) -> None:
        """Write run.json; a run that continues keeps the time of its first start, and the list of every change since.

        Args:
            config: Configuration as plain data.
            changes: Lines about the keys that differ from the last start.
            facts: Further content of run.json.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        before: dict[str, Any] = self.read() if self.record.exists() else {"started": now}
        history = before.get("changes", []) + ([{"at": now, "keys": changes}] if changes else [])
        content = {
            "name": self.path.name,
            "config": config,
            "argv": sys.argv,
            "versions": versions(),
            "git_commit": git_commit(),
            **facts,
            "started": before.get("started", now),
            **({"changes": history} if history else {}),
            "status": "running",
        }
        write_record(self.record, content)

    def finish(self) -> None:
        """Record in run.json that the run is finished."""
        write_record(self.record, {**self.read(), "status": "finished"})
