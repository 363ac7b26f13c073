"""The progress of an evaluation: a bar on a terminal, a line every 15 seconds elsewhere, nothing on other ranks."""

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from grow.common.printed import printable, say
from grow.distributed.processes import is_first

SECONDS_BETWEEN_LINES = 15.0


class EvaluationProgress:
    """Shows how many requests of each task are answered: a context manager, and a `ShowProgress` to call."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> "EvaluationProgress":
        if is_first() and sys.stdout.isatty():
            columns = (
                TextColumn("{task.description:<16}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` requests of a task or held-out source are answered."""
        if self._bar is not None:
            if what not in self._bars:
                self._bars[what] = self._bar.add_task(printable(what), total=total)
            self._bar.update(self._bars[what], completed=done)
        elif is_first() and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            say(f"{what}: {done:,}/{total:,} requests")
