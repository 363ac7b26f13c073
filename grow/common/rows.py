"""Rows of metrics in a file: one JSON object on each line."""

import functools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grow.common.errors import CheckpointError
from grow.common.printed import say
from grow.common.provenance import METRICS_FILE
from grow.common.records import check, read_object, read_record
from grow.common.temporary import replaced_file

ANALYSIS_FOLDER = "analysis"
FORGETTING_FILE = "forgetting.json"
CLOCK = ("step", "tokens", "flops", "seconds")
Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Read all rows of a file; none where there is no file. A torn last line is left out with a notice.

    Raises:
        CheckpointError: a line before the last one is damaged.
    """
    return [row for _, row in numbered_rows(path)]


def numbered_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows as `read_rows` returns them, each with the number of its line, from 1."""
    content = path.read_bytes() if path.is_file() else b""
    whole = whole_bytes(content)
    if whole < len(content):
        say_torn(path)
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        if line.strip():
            yield number, _parsed(line, f"{path}, line {number}")


def whole_bytes(content: bytes) -> int:
    """Return the length of the whole rows in a file's content: all of it, or what comes before a torn last line.

    A last line is torn where it has no newline or is no row: a process or a machine died while it was written.
    """
    start = content.rfind(b"\n", 0, -1) + 1
    last = content[start:]
    return len(content) if last.endswith(b"\n") and (not last.strip() or _row_in(last) is not None) else start


def cut_torn_line(path: Path) -> None:
    """Cut a torn last line off a file, with a notice, so that the next row is not written behind it."""
    content = path.read_bytes() if path.is_file() else b""
    whole = whole_bytes(content)
    if whole < len(content):
        say_torn(path)
        os.truncate(path, whole)


@functools.cache  # once for each file: a report reads the same rows many times
def say_torn(path: Path) -> None:
    """Print that a file's last line is torn and is left out."""
    say(f"notice: {path} ends in a torn line, which is left out.", file=sys.stderr)


def _parsed(line: bytes, where: str) -> Row:
    row = _row_in(line)
    if row is None:
        raise CheckpointError(
            f"{where}: expected one row, a JSON object, found {line[:80].decode(errors='replace')!r}. Repair the line."
        )
    check(row, dict[str, int | float], where)
    if any(isinstance(value, int) and abs(value) > sys.float_info.max for value in row.values()):
        raise CheckpointError(f"{where}: expected numbers, found one above {sys.float_info.max:.1g}. Repair the line.")
    return row


def _row_in(line: bytes) -> Row | None:
    """Return the row that a line holds; None where it holds none.

    Earlier versions wrote the first row of a run that continued behind a torn one, on the same line: it is read too.
    """
    for text in (line, line[max(line.rfind(b"{"), 0) :]):
        try:
            row = json.loads(text.decode())
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            return row
    return None


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of rows, so that a reader sees the old file or the new one, never half of one."""
    with replaced_file(path) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def last_clock(run: Path) -> dict[str, int | float]:
    """Read step, tokens, flops and seconds of a run's last row, those of them that it has.

    Raises:
        CheckpointError: the run has no rows.
    """
    metrics = run / METRICS_FILE
    rows = read_rows(metrics)
    if not rows:
        raise CheckpointError(f"{metrics}: expected the run's metrics, whose last row says where it ended, found none.")
    return {name: rows[-1][name] for name in CLOCK if name in rows[-1]}


@dataclass(kw_only=True, slots=True)
class _AnalyzedAt:
    """Which checkpoint a file of analyses is about."""

    name: str
    tokens: int


@dataclass(kw_only=True, slots=True)
class _Analysis(_AnalyzedAt):
    """What is in every file of analyses."""

    symmetry: dict[str, float]
    effective_rank: dict[str, float]
    spectra: dict[str, list[float]]
    expert_overlap: dict[str, float] = field(default_factory=dict)


def read_analyses(run: Path) -> list[Row]:
    """Read the analyses of a run's weights, oldest first; of those at the same tokens, the final model's comes last."""
    records = [read_object(path, _Analysis) for path in _analysis_files(run)]
    return sorted(records, key=lambda record: (record["tokens"], record["name"] == "model"))


def analyses_after(run: Path, tokens: int) -> list[Path]:
    """Return the files of the analyses that a run made after `tokens`."""
    return [path for path in _analysis_files(run) if read_record(path, _AnalyzedAt).tokens > tokens]


def _analysis_files(run: Path) -> list[Path]:
    return [path for path in (run / ANALYSIS_FOLDER).glob("*.json") if path.name != FORGETTING_FILE]


def read_scores(run: Path) -> list[Row]:
    """Read a run's rows with mean scores over tasks: those measured during training, then those of eval.py."""
    rows = [*read_rows(run / METRICS_FILE), *read_rows(run / "eval" / METRICS_FILE)]
    return [row for row in rows if "tokens" in row and {"eval/mean/acc", "eval_avg/mean/acc"} & row.keys()]


def protocol_of(row: Row) -> str:
    """Return the protocol of a row's scores: the tasks, the number of items, and the examples before each item.

    Two scores can be compared where their protocols are equal.
    """
    named = {name.split("/")[1] for name in row if name.startswith("eval") and name.endswith("/acc")}
    tasks = [", ".join(sorted(named - {"mean"}))] if named > {"mean"} else []
    items = f"first {row['eval/limit']} items" if "eval/limit" in row else "all items"
    return ", ".join([*tasks, items, f"{row.get('eval/num_fewshot', 0)}-shot"])
