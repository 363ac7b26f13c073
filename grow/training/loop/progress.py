"""The progress display of a run: a bar on a terminal, else a line every few seconds; nothing on other ranks."""

import sys
import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from grow.common.console import TableConsole
from grow.common.printed import say

_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BETWEEN_DRAWINGS = 0.1


class ProgressDisplay:
    """Shows steps done, loss, speed and time left.

    Args:
        total_steps: Optimizer steps of the whole run.
        shown: Whether anything is shown.
    """

    def __init__(self, total_steps: int, *, shown: bool) -> None:
        self._total, self._shown = total_steps, shown
        self._last_line = -_SECONDS_BETWEEN_LINES
        self._last_drawing = 0.0
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def start(self, step: int) -> None:
        """Start the display at a step that may be above 0, where a run continues."""
        if not (self._shown and sys.stdout.isatty()):
            return
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(),
            TextColumn("left"),
            auto_refresh=False,
            console=TableConsole(),
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=self._total, completed=step)

    def advance(self, step: int) -> None:
        """Move the bar to a step; called after every step, it draws ten times a second at most."""
        if self._bar is not None:
            due = time.monotonic() - self._last_drawing >= _SECONDS_BETWEEN_DRAWINGS
            self._last_drawing = time.monotonic() if due else self._last_drawing
            self._bar.update(self._task, completed=step, refresh=due)

    def update(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Show the figures of a step."""
        figures = f"loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=figures, refresh=True)
        elif self._shown and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(f"step {step}/{self._total}  {figures}", flush=True)

    def note(self, line: str) -> None:
        """Print a line that stays above the bar."""
        if self._bar is not None:
            self._bar.console.print(line)
        elif self._shown:
            say(line)

    def stop(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
