"""What a run shows while it trains: a bar on a terminal, a line now and then anywhere else, nothing on other ranks."""

import sys
import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 15.0


class ProgressDisplay:
    """Steps done, loss, speed and time left.

    Args:
        total_steps: of the whole run.
        shown: False shows nothing.
    """

    def __init__(self, total_steps: int, *, shown: bool) -> None:
        self._total, self._shown = total_steps, shown
        self._last_line = -_SECONDS_BETWEEN_LINES
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def start(self, step: int) -> None:
        """Show the display."""
        if not (self._shown and sys.stdout.isatty()):
            return
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            auto_refresh=False,
        )
        self._bar.start()
        self._task = self._bar.add_task("", total=self._total, completed=step)

    def update(self, step: int, loss: float, tokens_per_second: float) -> None:
        """New figures."""
        figures = f"loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=figures, refresh=True)
        elif self._shown and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(f"step {step}/{self._total}  {figures}", flush=True)

    def note(self, line: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
        elif self._shown:
            print(line, flush=True)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
