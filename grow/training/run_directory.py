"""The directory of a run: what it is called inside, and whether a configuration may continue what it holds."""

import datetime
import fcntl
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grow.common.errors import ConfigError
from grow.common.files import disk_errors_named
from grow.common.provenance import (
    GROWTH_FILE,
    METRICS_FILE,
    RUN_FILE,
    git_commit,
    read_json,
    versions,
    write_json,
)
from grow.common.redact import redacted

LOCK_FILE = ".lock"

# How a run is computed and watched; such keys change its numbers by rounding at most.
_FREE = (
    *("strategy.", "checkpoint.", "trainer.micro_batch", "trainer.accelerator", "trainer.threads", "trainer.compile"),
    "trainer.log_every_steps",
)
# What it learns with; such keys change the numbers, and change only where the user says so.
_ON_REQUEST = ("optimizer.", "schedule.", "objective.", "trainer.", "averaging.")
# Where it is, and what is said and measured of it; such keys change no number.
_WATCHING = ("run_dir", "resume", "logger.", "evaluation.", "analysis.")


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of a run, and its run.json."""

    path: Path

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def average(self) -> Path:
        return self.path / "average"

    @property
    def metrics(self) -> Path:
        return self.path / METRICS_FILE

    @property
    def growth(self) -> Path:
        return self.path / GROWTH_FILE

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def window(self, rank: int) -> Path:
        """Where a rank keeps the snapshots of averaging.storage=disk."""
        return self.path / "window" / f"rank-{rank:05}"

    @property
    def is_finished(self) -> bool:
        """Whether the run exported its model; an export appears whole or not at all."""
        return self.model.is_dir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of this run for the length of a block; a killed process keeps nobody out.

        Raises:
            ConfigError: another process trains in this directory.
            CheckpointError: the directory cannot be written.
        """
        with disk_errors_named(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / LOCK_FILE).open("a+")
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                raise ConfigError(
                    f"{self.path}: another process trains in this directory ({file.read().strip() or 'unknown'}). "
                    "Wait for it, stop it, or choose another run_dir."
                ) from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            yield

    def check_continues(self, config: dict[str, Any], resume: str) -> list[str]:
        """Compare a configuration with the one that the run was started with.

        Args:
            config: of the command line.
            resume: exact refuses what changes the numbers; changed takes new values of what a run may change.

        Returns:
            A line about each key that differs.

        Raises:
            ConfigError: a key differs that may not; all of them are named.
        """
        if not (self.path / RUN_FILE).exists():
            return []
        before, now = _flat(read_json(self.path / RUN_FILE)["config"]), _flat(config)
        differing = {
            key: f"{key}: {before.get(key)!r} there, {now.get(key)!r} here"
            for key in sorted(before.keys() | now.keys())
            if not key.startswith(_WATCHING) and before.get(key) != now.get(key)
        }
        refused = [key for key in differing if not _may_change(key, resume)]
        if refused:
            changeable = all(_may_change(key, "changed") for key in refused)
            raise ConfigError(
                f"{self.path} holds a run of another configuration ({'; '.join(differing[key] for key in refused)}). "
                + ("Add resume=changed to go on with the values given here, or choose" if changeable else "Choose")
                + " another run_dir, or remove this one."
            )
        return list(differing.values())

    def read(self) -> dict[str, Any]:
        """The content of run.json.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        return read_json(self.path / RUN_FILE)

    def start(self, config: dict[str, Any], changes: list[str], **facts: Any) -> None:
        """Write run.json; a run that continues keeps the moment it was first started, and every change since."""
        self.path.mkdir(parents=True, exist_ok=True)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        before = self.read() if (self.path / RUN_FILE).exists() else {"started": now}
        history = before.get("changes", []) + ([{"at": now, "keys": changes}] if changes else [])
        content = {
            "name": self.path.name,
            "config": config,
            "argv": [redacted(argument) for argument in sys.argv],
            "versions": versions(),
            "git_commit": git_commit(),
            **facts,
            "started": before["started"],
            **({"changes": history} if history else {}),
            "status": "running",
        }
        write_json(self.path / RUN_FILE, content)

    def finish(self) -> None:
        """Say in run.json that the run is over."""
        write_json(self.path / RUN_FILE, {**self.read(), "status": "finished"})


def _may_change(key: str, resume: str) -> bool:
    return key.startswith(_FREE) or (resume == "changed" and key.startswith(_ON_REQUEST))


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; comparable with what JSON gave back."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
