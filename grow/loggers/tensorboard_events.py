"""TensorBoard event files of a run's rows over tokens, written anew at every start of the run."""

import datetime
import shutil
from pathlib import Path
from typing import Any

from grow.common.extras import require
from grow.common.rows import Row


class TensorBoardView:
    """Writes a scalar for every number of a row, with tokens as the step and the run's own seconds as relative time.

    Args:
        directory: Directory of the event files; those of an earlier start are replaced.

    Raises:
        ConfigError: the package tensorboard is not installed.
    """

    def __init__(self, directory: Path) -> None:
        require("tensorboard", "logger.views=[tensorboard]")
        from torch.utils.tensorboard import SummaryWriter

        self._directory, self._open = directory, SummaryWriter
        self._writer: Any = None
        self._started = 0.0

    def start(self, record: dict[str, Any]) -> None:
        """Remove the event files of an earlier start and begin new ones; `Views` calls this at every start."""
        shutil.rmtree(self._directory, ignore_errors=True)
        self._writer = self._open(str(self._directory), flush_secs=10)
        self._started = datetime.datetime.fromisoformat(record["started"]).timestamp()

    def write(self, row: Row) -> None:
        """Write the numbers of one row."""
        moment = self._started + row["seconds"]
        for name, value in row.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, row["tokens"], walltime=moment)

    def close(self, summary: Row, *, failed: bool) -> None:
        """Close the event files."""
        if self._writer is not None:
            self._writer.close()
