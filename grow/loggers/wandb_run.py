"""Weights & Biases: one W&B run for a Grow run, however many ranks and starts it takes.

The id of the W&B run is drawn once and kept in wandb.json of the run directory, with the number of rows that were
handed over. A row's number in metrics.jsonl is its W&B step, so a run that continues hands over no row twice.
"""

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grow.common.errors import ConfigError
from grow.common.metrics import TRAIN_TOKENS
from grow.common.provenance import WANDB_FILE, read_json, write_json
from grow.common.redact import redacted, redacted_config
from grow.loggers.settings import LoggerSettings
from grow.loggers.views import Row

_INIT_TIMEOUT_S = 60.0
_FINISH_TIMEOUT_S = 300.0


class WandbView:
    """Rows over `train/tokens`, the run's configuration and lineage, and its final speeds.

    Args:
        settings: project, group, tags, mode.
        run: the run directory; W&B's own files go into it too.

    Raises:
        ConfigError: wandb is not installed or not logged in, or its server cannot be reached.
    """

    def __init__(self, settings: LoggerSettings, run: Path) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self._state_file = run / WANDB_FILE
        self._state = _state(self._state_file)
        self._run = _connect(settings, run, self._state["id"])
        if settings.mode == "online":
            self._state["rows"] = self._run.step  # the server knows better what it has
        write_json(self._state_file, self._state)

    def start(self, record: dict[str, Any]) -> None:
        facts = {key: value for key, value in record.items() if key != "config"}
        self._run.config.update(redacted_config({**record["config"], "run": facts}), allow_val_change=True)
        self._run.define_metric(TRAIN_TOKENS)
        self._run.define_metric("*", step_metric=TRAIN_TOKENS, step_sync=True)

    def write(self, number: int, row: Row) -> None:
        if number < self._state["rows"]:
            return
        self._run.log({**row, TRAIN_TOKENS: row["tokens"]}, step=number, commit=True)
        self._state["rows"] = number + 1
        write_json(self._state_file, self._state)

    def close(self, summary: Row, *, failed: bool) -> None:
        self._run.summary.update(summary)
        self._run.finish(exit_code=int(failed))


def _state(path: Path) -> dict[str, Any]:
    """The W&B id of a run and how many rows were handed over under it."""
    return read_json(path) if path.exists() else {"id": secrets.token_hex(4), "rows": 0}


def _connect(settings: LoggerSettings, run: Path, run_id: str) -> Any:
    try:
        import wandb
    except ModuleNotFoundError:
        raise ConfigError(
            "logger.views=[wandb]: the package wandb is not installed. Install it with `pip install wandb`, or choose "
            "another logger."
        ) from None
    try:
        if settings.mode == "online" and not wandb.login(prompt=False):
            raise wandb.errors.UsageError("no API key was found")
        with _redacted_argv():
            return wandb.init(
                id=run_id,
                resume="allow",
                name=run.name,
                dir=run,
                mode=settings.mode,  # type: ignore[arg-type]  # one of MODES
                project=settings.project,
                entity=settings.entity,
                group=settings.group,
                tags=settings.tags,
                settings=wandb.Settings(
                    console="off",
                    quiet=True,
                    disable_git=True,  # a remote's address may hold a password; run.json has the commit
                    save_code=False,
                    init_timeout=_INIT_TIMEOUT_S,
                    finish_timeout=_FINISH_TIMEOUT_S,
                ),
            )
    except wandb.errors.Error as error:
        raise ConfigError(
            f"logger.views=[wandb]: W&B cannot be used ({' '.join(str(error).split())}). Run `wandb login` or set "
            "WANDB_API_KEY, check the network, or choose logger=wandb_offline and upload later with `wandb sync`."
        ) from None


@contextmanager
def _redacted_argv() -> Iterator[None]:
    """Hide the secrets of the command line from W&B, which copies sys.argv into a run's metadata by itself."""
    original = sys.argv
    sys.argv = [redacted(argument) for argument in original]
    try:
        yield
    finally:
        sys.argv = original
