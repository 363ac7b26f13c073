"""One run as the report reads it from its directory: configuration, lineage and validation curve."""

import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grow.common.errors import CheckpointError, DataError
from grow.common.metric_names import VAL_AVG_LOSS, VAL_LOSS
from grow.common.provenance import GROWTH_FILE, METRICS_FILE, RUN_FILE, Lineage
from grow.common.records import check, read_object
from grow.common.redact import redacted
from grow.common.rows import numbered_rows
from grow.report.curves import AXES, Curve

FROM_NOISE = "from noise"
SOURCE_TRAINED_FURTHER = "source trained further"


@dataclass(kw_only=True, slots=True)
class Run:
    """One finished or stopped run, read from its directory."""

    directory: Path
    name: str
    label: str
    """How the run started: from noise, the source trained further, or the name of the growth."""
    curve: Curve
    config: dict[str, Any]
    model: dict[str, Any]
    """parameters, flops_per_token and sequence_length."""
    lineage: Lineage | None
    """What was spent on the source; None for a run from noise."""
    growth: dict[str, Any] | None
    """Content of growth.json; None where nothing was grown."""
    versions: dict[str, str]
    git_commit: str | None

    @property
    def seed(self) -> Any:
        """Seed of the run; None where it recorded none."""
        return self.config.get("seed")


def read_run(directory: Path) -> Run:
    """Read one run directory.

    Raises:
        CheckpointError: the directory, run.json or growth.json is missing, damaged or lacks a key.
        DataError: metrics.jsonl is missing, damaged, or holds no validation from the first step on.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: expected a run directory, found none. Check the path.")
    path = directory / RUN_FILE
    found = check(redacted(read_object(path)), _RunRecord, str(path))  # earlier versions wrote some secrets into it
    return Run(
        directory=directory,
        name=found.name,
        label=_label(found, str(path)),
        curve=_curve(directory / METRICS_FILE),
        config=found.config,
        model=asdict(found.model),
        lineage=found.lineage,
        growth=_growth(directory / GROWTH_FILE),
        versions=found.versions or {},
        git_commit=found.git_commit,
    )


@dataclass(kw_only=True, slots=True)
class _Model:
    """Sizes of a run's model."""

    parameters: int
    flops_per_token: int | float
    sequence_length: int


@dataclass(kw_only=True, slots=True)
class _RunRecord:
    """What the report takes from run.json."""

    name: str
    config: dict[str, Any]
    model: _Model
    lineage: Lineage | None
    versions: dict[str, str] | None = None
    git_commit: str | None = None


@dataclass(kw_only=True, slots=True)
class _Growth:
    """What the report takes from the growth of a run's configuration."""

    name: str


def _label(run: _RunRecord, path: str) -> str:
    settings = run.config.get("growth")
    if settings is None:
        return FROM_NOISE if run.lineage is None else SOURCE_TRAINED_FURTHER
    growth = check(settings, _Growth, f"{path}, config.growth")
    return SOURCE_TRAINED_FURTHER if growth.name == "identity" else growth.name


def _growth(path: Path) -> dict[str, Any] | None:
    return redacted(read_object(path)) if path.exists() else None


def _curve(path: Path) -> Curve:
    rows = _validations(path)
    if not rows:
        raise DataError(
            f"{path}: expected rows with {VAL_LOSS}, found none. Validate during the run (trainer.val_every_tokens)."
        )
    points = [rows[step] for step in sorted(rows)]
    if points[0]["tokens"] != 0:
        raise DataError(
            f"{path}: expected the first validation at tokens=0, found it at {points[0]['tokens']}. Without the start "
            "of the curve, the point where it reaches a loss is unknown; run the training again."
        )
    columns = {axis: np.array([row[axis] for row in points]) for axis in AXES}
    averaged = np.array([row.get(VAL_AVG_LOSS, math.nan) for row in points])
    return Curve(loss=np.array([row[VAL_LOSS] for row in points]), averaged=averaged, **columns)


def _validations(path: Path) -> dict[int, dict[str, float]]:
    """Read the validation rows by step; where a resumed run wrote a step again, the last row counts."""
    if not path.is_file():
        raise DataError(f"{path}: expected the run's metrics, found no file. Has the run started?")
    try:
        numbered = list(numbered_rows(path))
    except CheckpointError as error:
        raise DataError(str(error)) from None
    rows = {}
    for number, row in numbered:
        if VAL_LOSS in row:
            _check(row, where=f"{path}, line {number}")
            rows[row["step"]] = row
    return rows


def _check(row: dict[str, Any], *, where: str) -> None:
    for key in ("step", *AXES, VAL_LOSS, *[VAL_AVG_LOSS] * (VAL_AVG_LOSS in row)):
        value = row.get(key)
        if not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
            raise DataError(
                f"{where}: expected a finite number for {key}, found {value!r}. If the run diverged, leave it out of "
                "the report and say so."
            )
