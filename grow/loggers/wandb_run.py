"""Weights & Biases: one W&B run for each Grow run, however many ranks and starts that takes.

wandb.json in the run directory holds the id of the W&B run, generated once, and which rows were sent, so that a
continued run sends no row twice. W&B cannot delete rows. So where steps were lost and trained again, W&B keeps their
first rows, while metrics.jsonl has the rows of the final weights.
"""

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grow.common.errors import ConfigError
from grow.common.extras import require
from grow.common.metric_names import TRAIN_TOKENS
from grow.common.provenance import WANDB_FILE, write_json
from grow.common.records import read_record
from grow.common.redact import redacted
from grow.common.rows import Row
from grow.loggers.settings import LoggerSettings

_INIT_TIMEOUT_S = 60.0
_FINISH_TIMEOUT_S = 300.0


@dataclass(kw_only=True, slots=True)
class SentRows:
    """Which rows of a run were sent to W&B; the content of wandb.json."""

    id: str
    """Id of the W&B run."""
    rows: int = 0
    """Number of rows sent, which is also the W&B step of the next one."""
    tokens: int = -1
    """Tokens of the last row sent."""
    columns: list[str] = field(default_factory=list)
    """Columns of all rows sent at those tokens: a training row and a validation row may have the same tokens."""

    def has(self, row: Row) -> bool:
        """Return whether this row, or another one in its place, was sent."""
        return row["tokens"] < self.tokens or (row["tokens"] == self.tokens and row.keys() <= set(self.columns))

    def add(self, row: Row) -> None:
        """Record that a row was sent."""
        before = self.columns if row["tokens"] == self.tokens else []
        self.rows, self.tokens, self.columns = self.rows + 1, row["tokens"], sorted({*before, *row})

    def correct(self, step: int, tokens: int | None) -> None:
        """Take the server's word where a killed process recorded rows here that never arrived there.

        Args:
            step: W&B's next step.
            tokens: Tokens of the last row that arrived; None where none did.
        """
        self.rows = max(self.rows, step)
        if tokens is None:
            self.tokens, self.columns = -1, []
        elif tokens < self.tokens:
            self.tokens, self.columns = tokens + 1, []


class WandbView:
    """Sends W&B a run's rows over `train/tokens`, its configuration and lineage, and its final speeds.

    Args:
        settings: Project, entity, group, tags and mode.
        run: Run directory, into which W&B's own files go too.

    Raises:
        ConfigError: wandb is not installed or not logged in, or its server cannot be reached.
    """

    def __init__(self, settings: LoggerSettings, run: Path) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self._state_file = run / WANDB_FILE
        known = self._state_file.exists()
        self._sent = read_record(self._state_file, SentRows) if known else SentRows(id=secrets.token_hex(4))
        self._run = _connect(settings, run, self._sent.id)
        if settings.mode == "online":
            self._sent.correct(self._run.step, self._run.summary.get(TRAIN_TOKENS))
        write_json(self._state_file, asdict(self._sent))

    def start(self, record: dict[str, Any]) -> None:
        """Send the run's configuration, without secrets; `Views` calls this at every start of the run."""
        facts = {key: value for key, value in record.items() if key != "config"}
        self._run.config.update(redacted({**record["config"], "run": facts}), allow_val_change=True)
        self._run.define_metric(TRAIN_TOKENS)
        self._run.define_metric("*", step_metric=TRAIN_TOKENS, step_sync=True)

    def write(self, row: Row) -> None:
        """Send one row, unless it was sent before."""
        if self._sent.has(row):
            return
        self._run.log({**row, TRAIN_TOKENS: row["tokens"]}, step=self._sent.rows, commit=True)
        self._sent.add(row)
        write_json(self._state_file, asdict(self._sent))

    def close(self, summary: Row, *, failed: bool) -> None:
        """Send the run's mean speeds and finish the W&B run."""
        self._run.summary.update(summary)
        self._run.finish(exit_code=int(failed))


def _connect(settings: LoggerSettings, run: Path, run_id: str) -> Any:
    require("wandb", "logger.views=[wandb]")
    import wandb

    try:
        if settings.mode == "online" and not wandb.login(prompt=False):
            raise wandb.errors.UsageError("no API key was found")
        with _redacted_argv():
            return wandb.init(
                id=run_id,
                resume="allow",
                dir=run,
                mode=settings.mode,  # type: ignore[arg-type]  # one of MODES
                project=settings.project,
                entity=settings.entity,
                **redacted({"name": run.name, "group": settings.group, "tags": settings.tags}),
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
    """Hide secrets in sys.argv for the length of a block: W&B copies it into the metadata of a run."""
    original = sys.argv
    sys.argv = redacted(original)
    try:
        yield
    finally:
        sys.argv = original
