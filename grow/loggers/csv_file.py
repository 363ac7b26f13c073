"""metrics.csv, a table of a run's rows that is written anew at every start of the run."""

import csv
from pathlib import Path
from typing import Any

from grow.common.rows import Row
from grow.common.temporary import replaced_file


class CsvView:
    """Writes a line for each row; a row with a new column rewrites the whole table with that column.

    Args:
        path: CSV file to write.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] = []
        self._file: Any = None

    def start(self, record: dict[str, Any]) -> None:
        """Begin an empty table; `Views` calls this at every start of the run."""
        self._rewrite([])

    def write(self, row: Row) -> None:
        """Append one row."""
        new = [column for column in row if column not in self._columns]
        if new:
            self._columns += new
            with self._path.open(newline="") as file:
                self._rewrite(list(csv.DictReader(file)))
        csv.DictWriter(self._file, self._columns).writerow(row)

    def close(self, summary: Row, *, failed: bool) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        """Replace the file by a whole table, and keep it open for more rows."""
        if self._file is not None:
            self._file.close()
        with replaced_file(self._path, newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        self._file = self._path.open("a", buffering=1, newline="")
