"""All analyses of a run, checkpoint by checkpoint, written where the report looks for them."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.table import Table

from grow.analysis.forgetting import Forgetting, forgetting
from grow.analysis.weight_analysis import WeightAnalysis, analyze_weights
from grow.common.errors import CheckpointError
from grow.common.metric_names import VAL_LOSS
from grow.common.provenance import (
    COMPLETE_FILE,
    GROWTH_FILE,
    METRICS_FILE,
    RUN_FILE,
    clock_of,
    read_json,
    run_of,
    write_json,
)
from grow.common.rows import (
    ANALYSIS_FOLDER,
    CLOCK,
    FORGETTING_FILE,
    Row,
    last_clock,
    protocol_of,
    read_analyses,
    read_rows,
    read_scores,
    write_rows,
)

MEAN_SCORES = {"eval/mean/acc": True, "eval/mean/acc_norm": True, "eval/mean/bits_per_byte": False}
"""What can be forgotten beside the validation loss -> whether higher is better."""


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
    growth = growth_of(run)
    for directory, clock in checkpoints(run):
        record(run, directory.name, clock, analyze_weights(directory, growth, layers))
    rows, dips = summarize(run, source)
    if not rows:
        raise CheckpointError(f"{run}: expected checkpoints or a model to analyze, found none. Has the run started?")
    return rows, dips


def record(run: Path, name: str, clock: Mapping[str, float], found: WeightAnalysis) -> None:
    """Write one checkpoint's numbers and spectra."""
    (run / ANALYSIS_FOLDER).mkdir(exist_ok=True)
    write_json(run / ANALYSIS_FOLDER / f"{name}.json", {"name": name, **clock, **asdict(found)})


def summarize(run: Path, source: str | None = None) -> tuple[list[Row], dict[str, Forgetting]]:
    """Write rows of metrics of all that was analyzed, during the run and after it, and the dips up to now."""
    rows = [_row_of(content) for content in read_analyses(run)]
    dips = find_forgetting(run, growth_of(run), source)
    if rows:
        write_rows(
            run / ANALYSIS_FOLDER / METRICS_FILE, [{k: v for k, v in row.items() if k != "name"} for row in rows]
        )
        write_json(run / ANALYSIS_FOLDER / FORGETTING_FILE, {name: asdict(dip) for name, dip in dips.items()})
    return rows, dips


def forget_after(run: Path, tokens: int) -> None:
    """Remove what was analyzed later than a run now stands: it continues from before, or anew."""
    for content in read_analyses(run):
        if content["tokens"] > tokens:
            (run / ANALYSIS_FOLDER / f"{content['name']}.json").unlink()


def growth_of(run: Path) -> dict[str, Any] | None:
    """Content of a run's growth.json; None where nothing was grown."""
    return read_json(run / GROWTH_FILE) if (run / GROWTH_FILE).is_file() else None


def _row_of(content: Mapping[str, Any]) -> Row:
    """A row of metrics of one checkpoint's record: its name, the clock, means over matrices, each matrix."""
    found = WeightAnalysis(**{field.name: content[field.name] for field in fields(WeightAnalysis)})
    return {"name": content["name"], **{name: content[name] for name in CLOCK}, **found.metrics()}


def checkpoints(run: Path) -> Iterator[tuple[Path, dict[str, float]]]:
    """Every complete set of live weights of a run with its clock, oldest first; the final model last."""
    for directory in sorted(run.glob("checkpoints/step-*")):
        if (directory / COMPLETE_FILE).is_file():
            yield directory, clock_of(directory)
    if (run / "model").is_dir():
        yield run / "model", last_clock(run)


def find_forgetting(run: Path, growth: Mapping[str, Any] | None, source: str | None) -> dict[str, Forgetting]:
    """The dip of the validation loss, and of each mean score that was measured on the source in the same way.

    A grown model's first measurements, before any step, are its source's own where growth preserved the function.
    """
    rows = [row for row in read_rows(run / METRICS_FILE) if VAL_LOSS in row]
    preserved = growth is not None and growth["preserved"]
    dips = {}
    if preserved and rows and rows[0]["tokens"] == 0:
        dips[VAL_LOSS] = _dip(rows, VAL_LOSS, rows[0][VAL_LOSS], higher_is_better=False)
    scored = read_scores(run)
    named = source or (growth or {}).get("source", {}).get("source")
    for own in [*_source_scores(named), *(row for row in scored if preserved and row["tokens"] == 0)]:
        curve = [row for row in scored if protocol_of(row) == protocol_of(own)]
        for name in [name for name in MEAN_SCORES if name in own and name not in dips]:
            points = [row for row in curve if name in row]
            if points:
                dips[name] = _dip(points, name, own[name], higher_is_better=MEAN_SCORES[name])
    return dips


def _source_scores(source: str | None) -> list[Row]:
    """Scores of the run that was grown from, newest first; none where it was not evaluated or is no run."""
    place = Path(source) if source else None
    run = None if place is None else place if (place / RUN_FILE).is_file() else run_of(place)
    return [] if run is None else sorted(read_scores(run), key=lambda row: -row["tokens"])


def _dip(rows: list[Row], name: str, own: float, *, higher_is_better: bool) -> Forgetting:
    by_tokens = {row["tokens"]: row[name] for row in rows}  # the last measurement of a point stands
    tokens = sorted(by_tokens)
    return forgetting(tokens, [by_tokens[at] for at in tokens], own, higher_is_better=higher_is_better)


def summary_table(rows: list[Row]) -> Table:
    """A line a checkpoint, with the mean over matrices of each analysis."""
    kinds = [kind for kind in ("symmetry", "effective_rank", "expert_overlap") if f"analysis/{kind}/mean" in rows[0]]
    table = Table("checkpoint", "tokens", *[f"mean {kind.replace('_', ' ')}" for kind in kinds])
    for row in rows:
        table.add_row(row["name"], f"{row['tokens']:,}", *[f"{row[f'analysis/{kind}/mean']:.4f}" for kind in kinds])
    return table
