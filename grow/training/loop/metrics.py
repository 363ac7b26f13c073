"""metrics.jsonl, one row a measurement, and the speeds that go into it."""

import json
import os
import time
from pathlib import Path
from typing import IO, Any

from grow.common.clock import Clock
from grow.loggers.views import Views


class MetricsFile:
    """Rows of JSON, each complete on disk once written.

    Args:
        path: the file; None drops all rows (ranks other than the first).
        keep_bytes: length to cut the file to first: what was written after the checkpoint a run continues from.
        views: are handed every row too.
    """

    def __init__(self, path: Path | None, keep_bytes: int = 0, views: Views | None = None) -> None:
        self._file: IO[str] | None = None
        self._views = views
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.truncate(path, min(keep_bytes, path.stat().st_size))
            if views is not None:
                views.start(map(json.loads, path.read_text().splitlines()))
            self._file = path.open("a", buffering=1)

    def write(self, clock: Clock, values: dict[str, Any]) -> None:
        """Append the clock's four columns and these values."""
        if self._file is not None:
            row = {**clock.reading(), **values}
            self._file.write(json.dumps(row) + "\n")
            if self._views is not None:
                self._views.write(row)

    @property
    def size_bytes(self) -> int:
        return 0 if self._file is None else self._file.tell()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Lap:
    """Tokens a second between two readings, pauses left out."""

    def __init__(self, tokens: int) -> None:
        self._tokens, self._started = tokens, time.perf_counter()

    def tokens_per_second(self, tokens: int) -> float:
        """Speed since the last reading, and the start of the next lap."""
        now = time.perf_counter()
        speed = (tokens - self._tokens) / (now - self._started)
        self._tokens, self._started = tokens, now
        return speed

    def leave_out(self, seconds: float) -> None:
        """Time that was not spent training: validation, a checkpoint."""
        self._started += seconds
