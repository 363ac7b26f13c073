"""Ends a rank that has made no progress for too long, and reports where it hung."""

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path

HANG_EXIT_CODE = 1


class Watchdog:
    """A thread that ends the process when the training loop sends no heartbeat for too long.

    Args:
        timeout_s: Longest time between two heartbeats, in seconds.
        report: File that gets the stacks of all threads of this rank.
        rank: Rank of this process.
    """

    def __init__(self, *, timeout_s: float, report: Path, rank: int) -> None:
        self._timeout_s, self._report, self._rank = timeout_s, report, rank
        self._last_beat, self._doing = time.monotonic(), "start"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self.heartbeat("the first step")
        self._thread.start()

    def heartbeat(self, doing: str) -> None:
        """Reset the timer, and keep the name of the work that begins."""
        self._last_beat, self._doing = time.monotonic(), doing

    def stop(self) -> None:
        """Stop the thread."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._timeout_s / 4)):
            silent_s = time.monotonic() - self._last_beat
            if silent_s > self._timeout_s:
                self._give_up(silent_s)

    def _give_up(self, silent_s: float) -> None:
        self._report.parent.mkdir(parents=True, exist_ok=True)
        with self._report.open("w") as file:
            faulthandler.dump_traceback(file=file, all_threads=True)
        print(
            f"rank {self._rank} has stood still for {silent_s:.0f} s in {self._doing} (strategy.timeout_s="
            f"{self._timeout_s:.0f}): a rank is hanging or gone. The stacks of this rank are in {self._report}. "
            "The same command continues from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(HANG_EXIT_CODE)
