"""metrics.jsonl, with one row for each measurement, and the speeds that are written to it."""

import json
import os
import time
from pathlib import Path
from typing import IO, Any

from grow.common.aside import move_aside
from grow.common.clock import Clock
from grow.common.printed import say
from grow.common.rows import cut_torn_line, numbered_rows
from grow.loggers.views import Views


class MetricsFile:
    """A file of JSON rows, each handed to the system once it is written.

    Args:
        path: Path of the file; None, on ranks other than the first, drops all rows.
        keep_bytes: Length that the file is cut to first, which removes rows written after the checkpoint that the run
            continues from. 0 where it continues from none: rows that there are then are moved aside.
        views: Loggers that also get every row.

    Raises:
        CheckpointError: a row that the views are to show is damaged.
    """

    def __init__(self, path: Path | None, keep_bytes: int = 0, views: Views | None = None) -> None:
        self._file: IO[str] | None = None
        self._views = views
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _keep(path, keep_bytes)
            if views is not None:
                views.start(row for _, row in numbered_rows(path))
            self._file = path.open("a", buffering=1)

    def write(self, clock: Clock, values: dict[str, Any]) -> None:
        """Append a row of the clock's four columns and these values."""
        if self._file is not None:
            row = {**clock.reading(), **values}
            self._file.write(json.dumps(row) + "\n")
            if self._views is not None:
                self._views.write(row)

    @property
    def size_bytes(self) -> int:
        """Length of the file."""
        return 0 if self._file is None else self._file.tell()

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._file is not None:
            self._file.close()


def _keep(path: Path, length: int) -> None:
    """Cut a file of rows to the length that a checkpoint says, or a little less where a row would be torn."""
    found = path.stat().st_size if path.exists() else 0
    if found and not length:
        say(f"notice: no checkpoint has the rows of {path}, which is now {move_aside(path)}.")
    if found < length:
        say(f"notice: {path} has {found:,} bytes, expected {length:,}: its last rows were lost.")
    path.touch()
    os.truncate(path, min(length, path.stat().st_size))
    cut_torn_line(path)


class Lap:
    """Measures tokens per second between two readings, without the pauses.

    Args:
        tokens: Tokens seen at the start.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens, self._started = tokens, time.perf_counter()

    def tokens_per_second(self, tokens: int) -> float:
        """Return the speed since the last reading, and start the next lap."""
        now = time.perf_counter()
        speed = (tokens - self._tokens) / (now - self._started)
        self._tokens, self._started = tokens, now
        return speed

    def leave_out(self, seconds: float) -> None:
        """Exclude time that was not spent training, such as validation or a checkpoint."""
        self._started += seconds
