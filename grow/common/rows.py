"""Rows of metrics in a file: one JSON object on each line."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from grow.common.errors import CheckpointError
from grow.common.provenance import METRICS_FILE, read_json

ANALYSIS_FOLDER = "analysis"
FORGETTING_FILE = "forgetting.json"
CLOCK = ("step", "tokens", "flops", "seconds")
Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Read all rows of a file; none where there is no file. A line that a killed process left unfinished is skipped."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of rows, so that a reader sees the old file or the new one, never half of one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
    partial.replace(path)


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


def read_analyses(run: Path) -> list[Row]:
    """Read the analyses of a run's weights, oldest first; of those at the same tokens, the final model's comes last."""
    records = [read_json(path) for path in (run / ANALYSIS_FOLDER).glob("*.json") if path.name != FORGETTING_FILE]
    return sorted(records, key=lambda record: (record["tokens"], record["name"] == "model"))


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
