"""Hands a run's rows to its views. A view that fails is left behind with one warning; training goes on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from grow.common import metric_names as names
from grow.common.provenance import METRICS_FILE, RUN_FILE, read_json
from grow.common.rows import Row
from grow.loggers.settings import LoggerSettings


class View(Protocol):
    """One way to look at the rows of metrics.jsonl."""

    def start(self, record: dict[str, Any]) -> None:
        """Get ready for rows. `record` is run.json."""

    def write(self, row: Row) -> None:
        """Show a row of metrics.jsonl. A run that continues hands over its old rows first."""

    def close(self, summary: Row, *, failed: bool) -> None:
        """Finish, whether `start` was called or not."""


class Views:
    """The views of one run; none on ranks other than the first."""

    def __init__(self, run: Path, views: dict[str, View]) -> None:
        self._run, self._views = run, views
        self._last: Row = {}

    def start(self, rows: Iterator[Row]) -> None:
        """Begin with the rows that an earlier start of the run left."""
        if not self._views:
            return
        record = read_json(self._run / RUN_FILE)
        self._each(lambda view: view.start(record))
        for row in rows:
            self.write(row)

    def write(self, row: Row) -> None:
        """Show the next row."""
        self._each(lambda view: view.write(row))
        self._last = row

    def close(self, *, failed: bool) -> None:
        """Finish all views."""
        self._each(lambda view: view.close(_summary(self._last), failed=failed))
        self._views.clear()

    def _each(self, action: Callable[[View], None]) -> None:
        for name, view in list(self._views.items()):
            try:
                action(view)
            except Exception as error:  # whatever a view's library raises, it is no reason to stop training
                del self._views[name]
                reason = " ".join(str(error).split()) or type(error).__name__
                print(
                    f"warning: the {name} view stopped working and is left out from here on ({reason}). "
                    f"{self._run / METRICS_FILE} has every row; the same command shows them all again.",
                    flush=True,
                )


@contextmanager
def open_views(settings: LoggerSettings, run: Path, *, shown: bool) -> Iterator[Views]:
    """The views of a run, open for the length of a block.

    Args:
        settings: which.
        run: the run directory, where all of them keep their files.
        shown: False opens none (ranks other than the first).

    Raises:
        ConfigError: a view cannot be opened: its package is missing, or W&B cannot be reached.
    """
    views = Views(run, {name: _OPENERS[name](settings, run) for name in settings.views} if shown else {})
    failed = True
    try:
        yield views
        failed = False
    finally:
        views.close(failed=failed)


def _csv(settings: LoggerSettings, run: Path) -> View:
    from grow.loggers.csv_file import CsvView

    return CsvView(run / "metrics.csv")


def _tensorboard(settings: LoggerSettings, run: Path) -> View:
    from grow.loggers.tensorboard_events import TensorBoardView

    return TensorBoardView(run / "tensorboard")


def _wandb(settings: LoggerSettings, run: Path) -> View:
    from grow.loggers.wandb_run import WandbView

    return WandbView(settings, run)


_OPENERS: dict[str, Callable[[LoggerSettings, Path], View]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}


def _summary(last: Row) -> Row:
    """Speeds of the whole run, validation included, from its last row."""
    if not last.get("seconds"):
        return {}
    return {
        names.MEAN_TOKENS_PER_SEC: last["tokens"] / last["seconds"],
        names.MEAN_FLOPS_PER_SEC: last["flops"] / last["seconds"],
    }
