"""All analyses of a run, checkpoint by checkpoint, written into RUN/analysis for the report."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from grow.analysis.forgetting import Forgetting, forgetting
from grow.analysis.weight_analysis import WeightAnalysis, analyze_weights
from grow.common.checkpoint_names import checkpoint_directories
from grow.common.errors import CheckpointError
from grow.common.files import check_writable
from grow.common.metric_names import VAL_LOSS
from grow.common.provenance import (
    COMPLETE_FILE,
    GROWTH_FILE,
    METRICS_FILE,
    RUN_FILE,
    clock_of,
    run_of,
    write_json,
)
from grow.common.records import check, read_object
from grow.common.rows import (
    ANALYSIS_FOLDER,
    FORGETTING_FILE,
    Row,
    analyses_after,
    last_clock,
    protocol_of,
    read_analyses,
    read_rows,
    read_scores,
    write_rows,
)

MEAN_SCORES = {"eval/mean/acc": True, "eval/mean/acc_norm": True, "eval/mean/bits_per_byte": False}
"""Scores that can be forgotten besides the validation loss -> whether higher is better."""


def analyze_run(
    run: Path, layers: list[int] | None = None, source: str | None = None
) -> tuple[list[Row], dict[str, Forgetting]]:
    """Analyze every checkpoint of a run, oldest first, and write the results into the run directory.

    Args:
        run: Run directory.
        layers: Layers whose spectra are computed, from 0; None takes the first, quarter, middle and last.
        source: Run directory of the source; None takes the one of growth.json.

    Returns:
        Rows of metrics, one for each checkpoint, and the dip of each score whose value on the source is known.

    Raises:
        CheckpointError: the directory is not a run, or has no complete checkpoint.
        GrowthError: Grow does not know the model's family.
    """
    read_object(run / RUN_FILE)  # refuses a directory that is not a run
    check_writable(run / ANALYSIS_FOLDER, "Analyses are written into the run: analyze a copy of it, or ask its owner.")
    growth = growth_of(run)
    for directory, clock in checkpoints(run):
        record(run, directory.name, clock, analyze_weights(directory, growth, layers))
    rows, dips = summarize(run, source)
    if not rows:
        raise CheckpointError(f"{run}: expected checkpoints or a model to analyze, found none. Has the run started?")
    return rows, dips


def record(run: Path, name: str, clock: Mapping[str, float], found: WeightAnalysis) -> None:
    """Write the analysis of one checkpoint to RUN/analysis/NAME.json.

    Args:
        run: Run directory.
        name: Name of the checkpoint.
        clock: Step, tokens, flops and seconds of the checkpoint.
        found: Numbers and spectra of its weights.
    """
    (run / ANALYSIS_FOLDER).mkdir(exist_ok=True)
    write_json(run / ANALYSIS_FOLDER / f"{name}.json", {"name": name, **clock, **asdict(found)})


def summarize(run: Path, source: str | None = None) -> tuple[list[Row], dict[str, Forgetting]]:
    """Write the metric rows of all analyses so far, made during the run or after it, and the dips up to now.

    Returns:
        The rows and the dips, as `analyze_run` does.
    """
    rows = [_row_of(content, run) for content in read_analyses(run)]
    dips = find_forgetting(run, growth_of(run), source)
    if rows:
        write_rows(
            run / ANALYSIS_FOLDER / METRICS_FILE, [{k: v for k, v in row.items() if k != "name"} for row in rows]
        )
        write_json(run / ANALYSIS_FOLDER / FORGETTING_FILE, {name: asdict(dip) for name, dip in dips.items()})
    return rows, dips


def forget_after(run: Path, tokens: int) -> None:
    """Remove the analyses made after `tokens`: a run that starts again from there will make them anew."""
    for path in analyses_after(run, tokens):
        path.unlink()


@dataclass(kw_only=True, slots=True)
class _Source:
    """Source of a growth."""

    source: str | None = None


@dataclass(kw_only=True, slots=True)
class _GrowthRecord:
    """What the analyses take from growth.json."""

    growth: dict[str, Any]
    factors: dict[str, float]
    preserved: bool
    source: _Source | None = None


def growth_of(run: Path) -> dict[str, Any] | None:
    """Read a run's growth.json; None where nothing was grown."""
    return read_object(run / GROWTH_FILE, _GrowthRecord) if (run / GROWTH_FILE).is_file() else None


@dataclass(kw_only=True, slots=True)
class _Clock:
    """What an analysis says of its checkpoint."""

    name: str
    step: int
    tokens: int
    flops: int | float
    seconds: float


def _row_of(content: Mapping[str, Any], run: Path) -> Row:
    """Return a checkpoint's row of metrics: its name, its clock, means over matrices, and each matrix."""
    path = run / ANALYSIS_FOLDER / f"{content['name']}.json"
    return {**asdict(check(content, _Clock, str(path))), **check(content, WeightAnalysis, str(path)).metrics()}


def checkpoints(run: Path) -> Iterator[tuple[Path, dict[str, float]]]:
    """Yield every complete checkpoint of a run with its clock, oldest first, and then the final model."""
    for directory in checkpoint_directories(run / "checkpoints"):
        if (directory / COMPLETE_FILE).is_file():
            yield directory, clock_of(directory)
    if (run / "model").is_dir():
        yield run / "model", last_clock(run)


def find_forgetting(run: Path, growth: Mapping[str, Any] | None, source: str | None) -> dict[str, Forgetting]:
    """Compute the dip of the validation loss, and of each mean score that is known of the source by the same protocol.

    Where growth preserved the function, the grown model's first measurements, before any step, are taken as its
    source's own.

    Args:
        run: Run directory.
        growth: Content of growth.json; None where nothing was grown.
        source: Run directory of the source; None takes the one of growth.json.

    Returns:
        Metric name -> its dip.
    """
    rows = [row for row in read_rows(run / METRICS_FILE) if {VAL_LOSS, "tokens"} <= row.keys()]
    preserved = growth is not None and growth["preserved"]
    dips = {}
    if preserved and rows and rows[0]["tokens"] == 0:
        dips[VAL_LOSS] = _dip(rows, VAL_LOSS, rows[0][VAL_LOSS], higher_is_better=False)
    scored = read_scores(run)
    named = source or ((growth or {}).get("source") or {}).get("source")
    for own in [*_source_scores(named), *(row for row in scored if preserved and row["tokens"] == 0)]:
        curve = [row for row in scored if protocol_of(row) == protocol_of(own)]
        for name in [name for name in MEAN_SCORES if name in own and name not in dips]:
            points = [row for row in curve if name in row]
            if points:
                dips[name] = _dip(points, name, own[name], higher_is_better=MEAN_SCORES[name])
    return dips


def _source_scores(source: str | None) -> list[Row]:
    """Read the scores of the source's run, newest first; none where it was not evaluated or is not a run."""
    if not source:
        return []
    directory = Path(source)
    run = directory if (directory / RUN_FILE).is_file() else run_of(directory)
    return [] if run is None else sorted(read_scores(run), key=lambda row: -row["tokens"])


def _dip(rows: list[Row], name: str, own: float, *, higher_is_better: bool) -> Forgetting:
    by_tokens = {row["tokens"]: row[name] for row in rows}  # of several measurements at a point the last one counts
    tokens = sorted(by_tokens)
    return forgetting(tokens, [by_tokens[at] for at in tokens], own, higher_is_better=higher_is_better)


def summary_table(rows: list[Row]) -> Table:
    """Return a table with a line for each checkpoint: the mean over matrices of each analysis."""
    kinds = [kind for kind in ("symmetry", "effective_rank", "expert_overlap") if f"analysis/{kind}/mean" in rows[0]]
    table = Table("checkpoint", "tokens", *[f"mean {kind.replace('_', ' ')}" for kind in kinds])
    for row in rows:
        table.add_row(row["name"], f"{row['tokens']:,}", *[f"{row[f'analysis/{kind}/mean']:.4f}" for kind in kinds])
    return table
