"""Weights & Biases: one W&B run for a Grow run, however many ranks and starts it takes.

wandb.json of the run directory holds the id of the W&B run, drawn once, and how far W&B has been told: a run that
continues tells it nothing twice. W&B cannot take rows back, so of steps that were lost and trained again it keeps the
first rows; metrics.jsonl has those of the weights.
"""

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grow.common.errors import ConfigError
from grow.common.metric_names import TRAIN_TOKENS
from grow.common.provenance import WANDB_FILE, read_json, write_json
from grow.common.redact import redacted, redacted_config
from grow.common.rows import Row
from grow.loggers.settings import LoggerSettings

_INIT_TIMEOUT_S = 60.0
_FINISH_TIMEOUT_S = 300.0


@dataclass(kw_only=True, slots=True)
class Told:
    """How far W&B has been told of a run."""

    id: str
    rows: int = 0
    """Also the W&B step of the next one."""
    tokens: int = -1
    """Of the last row."""
    columns: list[str] = field(default_factory=list)
    """Of all rows at those tokens: a training row and a validation row may stand at the same ones."""

    def has(self, row: Row) -> bool:
        """Whether W&B was told of this row, or of another one in its place."""
        return row["tokens"] < self.tokens or (row["tokens"] == self.tokens and row.keys() <= set(self.columns))

    def add(self, row: Row) -> None:
        """W&B is told of a row."""
        before = self.columns if row["tokens"] == self.tokens else []
        self.rows, self.tokens, self.columns = self.rows + 1, row["tokens"], sorted({*before, *row})

    def correct(self, step: int, tokens: int | None) -> None:
        """Believe the server, where a killed process told it less than was written down here.

        Args:
            step: W&B's next one.
            tokens: of the last row that arrived, if any did.
        """
        self.rows = max(self.rows, step)
        if tokens is None:
            self.tokens, self.columns = -1, []
        elif tokens < self.tokens:
            self.tokens, self.columns = tokens + 1, []


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
        known = read_json(self._state_file) if self._state_file.exists() else {"id": secrets.token_hex(4)}
        self._run = _connect(settings, run, known["id"])
        self._told = Told(**known)
        if settings.mode == "online":
            self._told.correct(self._run.step, self._run.summary.get(TRAIN_TOKENS))
        write_json(self._state_file, asdict(self._told))

    def start(self, record: dict[str, Any]) -> None:
        facts = {key: value for key, value in record.items() if key != "config"}
        self._run.config.update(redacted_config({**record["config"], "run": facts}), allow_val_change=True)
        self._run.define_metric(TRAIN_TOKENS)
        self._run.define_metric("*", step_metric=TRAIN_TOKENS, step_sync=True)

    def write(self, row: Row) -> None:
        if self._told.has(row):
            return
        self._run.log({**row, TRAIN_TOKENS: row["tokens"]}, step=self._told.rows, commit=True)
        self._told.add(row)
        write_json(self._state_file, asdict(self._told))

    def close(self, summary: Row, *, failed: bool) -> None:
        self._run.summary.update(summary)
        self._run.finish(exit_code=int(failed))


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
