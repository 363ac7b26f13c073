"""metrics.csv: a table of a run's rows, made anew at every start of the run."""

import csv
import os
from pathlib import Path
from typing import Any

from grow.common.rows import Row


class CsvView:
    """One line a row; a column that a later row brings is added to the table as a whole.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] = []
        self._file: Any = None

    def start(self, record: dict[str, Any]) -> None:
        self._rewrite([])

    def write(self, row: Row) -> None:
        new = [column for column in row if column not in self._columns]
        if new:
            self._columns += new
            with self._path.open(newline="") as file:
                self._rewrite(list(csv.DictReader(file)))
        csv.DictWriter(self._file, self._columns).writerow(row)

    def close(self, summary: Row, *, failed: bool) -> None:
        if self._file is not None:
            self._file.close()

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        """Put a whole table in the file's place, and stay at its end."""
        if self._file is not None:
            self._file.close()
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
        self._file = partial.open("w", buffering=1, newline="")
        writer = csv.DictWriter(self._file, self._columns)
        writer.writeheader()
        writer.writerows(rows)
        partial.replace(self._path)
