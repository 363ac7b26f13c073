"""The views of a run, which get its rows. A view that fails is dropped with one warning, and training continues."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from grow.common import metric_names as names
from grow.common.printed import say
from grow.common.provenance import METRICS_FILE, RUN_FILE
from grow.common.records import read_object
from grow.common.rows import Row
from grow.loggers.settings import LoggerSettings


class View(Protocol):
    """One way to show the rows of metrics.jsonl. `Views` calls its methods, on the first rank only."""

    def start(self, record: dict[str, Any]) -> None:
        """Prepare for rows, at every start of the run.

        Args:
            record: Content of run.json.
        """

    def write(self, row: Row) -> None:
        """Show one row of metrics.jsonl; at a start, first those of earlier starts, and then each new one."""

    def close(self, summary: Row, *, failed: bool) -> None:
        """Finish at the end of the run, also where `start` was never called.

        Args:
            summary: Mean speeds of the whole run.
            failed: Whether the run ends with an error.
        """


class Views:
    """The views of one run, called together.

    Args:
        run: Run directory.
        views: View by name; none on ranks other than the first.
    """

    def __init__(self, run: Path, views: dict[str, View]) -> None:
        self._run, self._views = run, views
        self._last: Row = {}

    def start(self, rows: Iterator[Row]) -> None:
        """Start all views and show them the rows of earlier starts; called before the training loop."""
        if not self._views:
            return
        record = read_object(self._run / RUN_FILE)
        self._each(lambda view: view.start(record))
        for row in rows:
            self.write(row)

    def write(self, row: Row) -> None:
        """Show a new row in all views; called when the row is added to metrics.jsonl."""
        self._each(lambda view: view.write(row))
        self._last = row

    def close(self, *, failed: bool) -> None:
        """Close all views; `open_views` calls this when its block ends."""
        self._each(lambda view: view.close(_summary(self._last), failed=failed))
        self._views.clear()

    def _each(self, action: Callable[[View], None]) -> None:
        for name, view in list(self._views.items()):
            try:
                action(view)
            except Exception as error:  # no error of a view's library is a reason to stop training
                del self._views[name]
                reason = " ".join(str(error).split()) or type(error).__name__
                say(
                    f"warning: the {name} view stopped working and gets no more rows ({reason}). "
                    f"{self._run / METRICS_FILE} has every row; the same command shows them all again."
                )


@contextmanager
def open_views(settings: LoggerSettings, run: Path, *, shown: bool) -> Iterator[Views]:
    """Open the views of a run for the length of a block, and close them at its end.

    Args:
        settings: Choice of views.
        run: Run directory, in which all views keep their files.
        shown: False opens no view, for ranks other than the first.

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
    """Return the mean speeds of the whole run, validation included, from its last row."""
    if not last.get("seconds"):
        return {}
    return {
        names.MEAN_TOKENS_PER_SEC: last["tokens"] / last["seconds"],
        names.MEAN_FLOPS_PER_SEC: last["flops"] / last["seconds"],
    }
