"""A bar for work on texts: documents, tokens and their rate, share done, time left."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from grow.common.printed import say

_SECONDS_BETWEEN_LINES = 60


class WorkBar:
    """Shows how far work is: a bar on a terminal, else one line a minute on standard error."""

    def __init__(self, description: str, size: int) -> None:
        """Begin.

        Args:
            description: What is done.
            size: Bytes of input that are to be read; 0 where that is not known.
        """
        self._description, self._size = description, size
        self._done = self.documents = self.tokens = 0
        self._start = self._said = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> "WorkBar":
        if sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(12), TaskProgressColumn())
            times = (TextColumn("{task.fields[counts]}"), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, *times, console=Console(stderr=True))
            self._bar.add_task(self._description, total=self._size or None, counts="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, documents: int, tokens: int, size: int) -> None:
        """Count work that was done."""
        self.documents += documents
        self.tokens += tokens
        self._done += size
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, counts=self._counts())
        elif time.monotonic() - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            say(f"{self._description}: {self._counts()}{self._left()}", file=sys.stderr)

    def _counts(self) -> str:
        rate = self.tokens / max(time.monotonic() - self._start, 1e-9)
        return f"{self.documents:,} documents · {self.tokens:,} tokens · {rate:,.0f}/s"

    def _left(self) -> str:
        if not self._size or not self._done:
            return ""
        seconds = (time.monotonic() - self._start) * (self._size / self._done - 1)
        return f" · {self._done / self._size:.0%} · {max(seconds, 0) / 60:,.0f} minutes left"
