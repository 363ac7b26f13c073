"""The directory of a run: what it is called inside, and whether a configuration may continue what it holds."""

import datetime
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grow.common.errors import ConfigError
from grow.common.provenance import (
    GROWTH_FILE,
    METRICS_FILE,
    RUN_FILE,
    git_commit,
    read_json,
    versions,
    write_json,
)

_SECRET_WORDS = ("token", "secret", "password", "key")


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of a run, and its run.json."""

    path: Path

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        return self.path / METRICS_FILE

    @property
    def growth(self) -> Path:
        return self.path / GROWTH_FILE

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def is_finished(self) -> bool:
        """Whether the run exported its model; an export appears whole or not at all."""
        return self.model.is_dir()

    def refuse_other(self, config: dict[str, Any]) -> None:
        """Let a run continue only under the configuration it was started with.

        Raises:
            ConfigError: run.json holds another one; the differing keys are named.
        """
        if not (self.path / RUN_FILE).exists():
            return
        before, now = _flat(read_json(self.path / RUN_FILE)["config"]), _flat(config)
        differing = [
            f"{key}: {before.get(key)!r} there, {now.get(key)!r} here"
            for key in sorted(before.keys() | now.keys())
            if key != "run_dir" and before.get(key) != now.get(key)
        ]
        if differing:
            raise ConfigError(
                f"{self.path} holds a run of another configuration ({'; '.join(differing)}). Choose another run_dir, "
                "or remove this one."
            )

    def read(self) -> dict[str, Any]:
        """The content of run.json.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        return read_json(self.path / RUN_FILE)

    def start(self, config: dict[str, Any], **facts: Any) -> None:
        """Write run.json; a run that continues keeps the moment it was first started."""
        self.path.mkdir(parents=True, exist_ok=True)
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        if (self.path / RUN_FILE).exists():
            started = self.read()["started"]
        content = {
            "name": self.path.name,
            "config": config,
            "argv": [redacted(argument) for argument in sys.argv],
            "versions": versions(),
            "git_commit": git_commit(),
            **facts,
            "started": started,
            "status": "running",
        }
        write_json(self.path / RUN_FILE, content)

    def finish(self) -> None:
        """Say in run.json that the run is over."""
        write_json(self.path / RUN_FILE, {**self.read(), "status": "finished"})


def redacted(argument: str) -> str:
    """A command line argument with its value hidden where its key looks like a secret's."""
    key, equals, _ = argument.partition("=")
    words = key.lower().replace("-", "_").replace(".", "_").lstrip("+~").split("_")
    return f"{key}=***" if equals and any(word in words for word in _SECRET_WORDS) else argument


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; comparable with what JSON gave back."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
