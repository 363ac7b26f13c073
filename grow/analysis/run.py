"""All analyses of a run, checkpoint by checkpoint, written where the report looks for them."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from rich.table import Table

from grow.analysis.forgetting import Forgetting, forgetting
from grow.analysis.weights import WeightAnalysis, analyze_weights
from grow.common.errors import CheckpointError
from grow.common.metrics import VAL_LOSS
from grow.common.provenance import COMPLETE_FILE, GROWTH_FILE, METRICS_FILE, RUN_FILE, clock_of, read_json, write_json
from grow.common.rows import Row, read_rows, write_rows

FOLDER = "analysis"
FORGETTING_FILE = "forgetting.json"
MEAN_SCORES = {"eval/mean/acc": True, "eval/mean/acc_norm": True, "eval/mean/bits_per_byte": False}
"""What can be forgotten beside the validation loss -> whether higher is better."""
_CLOCK = ("step", "tokens", "flops", "seconds")


def analyze_run(
    run: Path, layers: list[int] | None = None, source: str | None = None
) -> tuple[list[Row], dict[str, Forgetting]]:
    """Analyze every checkpoint of a run, oldest first, and write it all down.

    Args:
        run: run directory.
        layers: whose spectra are taken; None takes the first, quarter, middle and last.
        source: run directory of the source; None takes the one of growth.json.

    Returns:
        Rows of metrics, and the dip of each score whose source's own value is known.

    Raises:
        CheckpointError: this is no run, or it has no complete checkpoint.
        GrowthError: the model is of a family Grow does not know.
    """
    read_json(run / RUN_FILE)  # says so where this is no run
    growth = read_json(run / GROWTH_FILE) if (run / GROWTH_FILE).is_file() else None
    (run / FOLDER).mkdir(exist_ok=True)
    rows = []
    for directory, clock in checkpoints(run):
        found = analyze_weights(directory, growth, layers)
        write_json(run / FOLDER / f"{directory.name}.json", {"name": directory.name, **clock, **asdict(found)})
        rows.append({"name": directory.name, **clock, **_means(found), **found.metrics()})
    if not rows:
        raise CheckpointError(f"{run}: expected checkpoints or a model to analyze, found none. Has the run started?")
    write_rows(run / FOLDER / METRICS_FILE, [{k: v for k, v in row.items() if k != "name"} for row in rows])
    dips = find_forgetting(run, growth, source)
    write_json(run / FOLDER / FORGETTING_FILE, {name: asdict(dip) for name, dip in dips.items()})
    return rows, dips


def checkpoints(run: Path) -> Iterator[tuple[Path, dict[str, float]]]:
    """Every complete set of live weights of a run with its clock, oldest first; the final model last."""
    for directory in sorted(run.glob("checkpoints/step-*")):
        if (directory / COMPLETE_FILE).is_file():
            yield directory, clock_of(directory)
    if (run / "model").is_dir():
        last = read_rows(run / METRICS_FILE)[-1]
        yield run / "model", {name: last[name] for name in _CLOCK}


def find_forgetting(run: Path, growth: Mapping[str, Any] | None, source: str | None) -> dict[str, Forgetting]:
    """The dip of the validation loss, and of each mean score that was measured on the source too.

    A grown model's first validation, before any step, is its source's own loss: growth preserved the function.
    """
    rows = [row for row in read_rows(run / METRICS_FILE) if VAL_LOSS in row]
    dips = {}
    if growth is not None and growth["preserved"] and rows and rows[0]["tokens"] == 0:
        dips[VAL_LOSS] = _dip(rows, VAL_LOSS, rows[0][VAL_LOSS], higher_is_better=False)
    named = source or (growth or {}).get("source", {}).get("source")
    own = _source_scores(Path(named)) if named else {}
    scored = read_rows(run / "eval" / METRICS_FILE)
    for name, higher_is_better in MEAN_SCORES.items():
        curve = [row for row in scored if name in row]
        if curve and name in own:
            dips[name] = _dip(curve, name, own[name], higher_is_better=higher_is_better)
    return dips


def _dip(rows: list[Row], name: str, own: float, *, higher_is_better: bool) -> Forgetting:
    by_tokens = {row["tokens"]: row[name] for row in rows}  # the last measurement of a point stands
    tokens = sorted(by_tokens)
    return forgetting(tokens, [by_tokens[at] for at in tokens], own, higher_is_better=higher_is_better)


def _source_scores(source: Path) -> Row:
    """The last scores of the run that was grown from, where it was evaluated."""
    run = source.parent if source.name == "model" else source
    rows = [row for row in read_rows(run / "eval" / METRICS_FILE) if any(name in row for name in MEAN_SCORES)]
    return max(rows, key=lambda row: row.get("tokens", 0)) if rows else {}


def _means(found: WeightAnalysis) -> dict[str, float]:
    kinds = {name: getattr(found, name) for name in ("symmetry", "effective_rank", "expert_overlap")}
    return {f"analysis/{kind}/mean": mean(values.values()) for kind, values in kinds.items() if values}


def summary_table(rows: list[Row]) -> Table:
    """A line a checkpoint, with the mean over matrices of each analysis."""
    kinds = [kind for kind in ("symmetry", "effective_rank", "expert_overlap") if f"analysis/{kind}/mean" in rows[0]]
    table = Table("checkpoint", "tokens", *[f"mean {kind.replace('_', ' ')}" for kind in kinds])
    for row in rows:
        table.add_row(row["name"], f"{row['tokens']:,}", *[f"{row[f'analysis/{kind}/mean']:.4f}" for kind in kinds])
    return table
