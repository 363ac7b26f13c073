"""Measured growth presets: the runs of studies/measure_presets.sh, each compared with its own shape from noise.

    RUNS/SHAPE/PRESET-SEED       a target of that shape, grown by that preset
    RUNS/SHAPE/noise-SEED        the baseline of that shape
    RUNS/source/identity-SEED    the source trained further, which has no baseline

Each speed-up is against the baseline of the same shape. Shapes differ in FLOPs per token, so compare different shapes
by their loss against FLOPs.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from grow.common.errors import DataError
from grow.common.markdown import markdown_code, markdown_table
from grow.report.arms import Arm
from grow.report.runs import FROM_NOISE
from grow.report.verdict import ArmVerdict, Verdict, judge
from grow.report.wording import cost

_HEADER = (
    *("preset", "shape", "parameters", "seeds", "first loss", "last loss", "nats below noise", "cost to target"),
    *("speed-up", "with source's tokens", "with source's FLOPs"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PresetRow:
    """One preset on one shape: means over its seeds, losses in nats per token. None: not reached, or no baseline."""

    preset: str
    shape: str
    seeds: int
    parameters: int
    flops_per_token: int
    first_loss: float
    """Validation loss right after growth."""
    final_loss: float
    final_by_seed: str
    """Final loss of each seed, separated by spaces."""
    gain: float | None = None
    """Final loss of the baseline minus that of the preset, in nats."""
    tokens_to_target: float | None = None
    """Tokens to the baseline's final loss; 0 where the growth starts at it."""
    flops_to_target: float | None = None
    speedup: float | None = None
    """Speed-up with the source free, equal in tokens and in FLOPs. 0: never reached; infinite: at no cost."""
    low: float | None = None
    high: float | None = None
    """Lower (`low`) and upper end of the 95 % interval of the speed-up, from three seeds on."""
    speedup_tokens: float | None = None
    """Speed-up in tokens, the source's tokens included."""
    speedup_flops: float | None = None
    """Speed-up in FLOPs, the source's FLOPs included."""


def read_shapes(runs: Path, seed: int | None = None) -> dict[str, Verdict]:
    """Read the finished runs and judge them, shape by shape.

    Args:
        runs: Directory that studies/measure_presets.sh filled.
        seed: Seed of the grown runs to read, next to the baselines of all seeds; None reads all.

    Returns:
        Shape -> verdict on its presets.

    Raises:
        DataError: there are no such runs, or one cannot be read.
        CheckpointError: a run directory is damaged; see `read_run`.
    """
    found: dict[str, list[Path]] = {}
    for directory in sorted(model.parent for model in runs.glob("*/*-[0-9]/model")):
        if seed is None or directory.name.startswith("noise-") or directory.name.endswith(f"-{seed}"):
            found.setdefault(directory.parent.name, []).append(directory)
    if not found:
        raise DataError(
            f"{runs}: expected finished runs in SHAPE/PRESET-SEED, found none. Make them with "
            "studies/measure_presets.sh."
        )
    return {shape: _judge(directories) for shape, directories in found.items()}


def _judge(directories: list[Path]) -> Verdict:
    noise = [directory for directory in directories if directory.name.startswith("noise-")]
    grown = [directory for directory in directories if directory not in noise]
    return judge([str(directory) for directory in grown], baseline=[str(directory) for directory in noise])


def rows(shapes: dict[str, Verdict]) -> list[PresetRow]:
    """Return a row for each preset: by shape, the largest speed-up first, and the shape's baseline last."""
    found = []
    for shape, verdict in shapes.items():
        found += sorted((_grown(shape, judged, verdict.baseline) for judged in verdict.arms), key=_rank)
        found += [] if verdict.baseline is None else [_row(shape, FROM_NOISE, verdict.baseline)]
    return found


def best(found: Iterable[PresetRow], count: int) -> list[PresetRow]:
    """Return the rows with the largest source-free speed-ups; of equal ones those with the largest gain."""
    return sorted((row for row in found if row.speedup is not None), key=_rank)[:count]


def _rank(row: PresetRow) -> tuple[float, float]:
    return -(row.speedup or 0.0), -(row.gain or 0.0)


def _grown(shape: str, judged: ArmVerdict, baseline: Arm | None) -> PresetRow:
    preset = judged.arm.runs[0].config["growth"]["name"]
    if baseline is None or judged.speedups is None:
        return _row(shape, preset, judged.arm)
    free = judged.speedups["tokens", "F"]
    low, high = free.interval or (None, None)
    return _row(
        shape,
        preset,
        judged.arm,
        gain=baseline.curve.final_loss - judged.arm.curve.final_loss,
        tokens_to_target=free.speedup.cost_run,
        flops_to_target=judged.speedups["flops", "F"].speedup.cost_run,
        speedup=free.speedup.as_ratio,
        low=low,
        high=high,
        speedup_tokens=judged.speedups["tokens", "I"].speedup.as_ratio,
        speedup_flops=judged.speedups["flops", "I"].speedup.as_ratio,
    )


def _row(shape: str, preset: str, arm: Arm, **measured: float | None) -> PresetRow:
    model = arm.runs[0].model
    return PresetRow(
        preset=preset,
        shape=shape,
        seeds=len(arm.runs),
        parameters=model["parameters"],
        flops_per_token=model["flops_per_token"],
        first_loss=float(arm.curve.loss[0]),
        final_loss=arm.curve.final_loss,
        final_by_seed=" ".join(f"{curve.final_loss:.4f}" for curve in arm.curves),
        **measured,
    )


def as_csv(found: Iterable[PresetRow]) -> str:
    """Return the rows as CSV with a header; numbers have at most four decimals, None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(PresetRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _number(value) for name, value in asdict(row).items()} for row in found)
    return text.getvalue()


def _number(value: Any) -> Any:
    return f"{value:.4f}".removesuffix(".0000") if isinstance(value, float) else value


def as_markdown(found: Iterable[PresetRow]) -> str:
    """Return the rows as a Markdown table."""
    return markdown_table(_HEADER, map(_cells, found))


def _cells(row: PresetRow) -> list[str]:
    spent = ""
    if row.tokens_to_target is not None and row.flops_to_target is not None:
        spent = f"{cost('tokens', row.tokens_to_target)}, {cost('flops', row.flops_to_target)}"
    interval = "" if row.low is None else f" [{_ratio(row.low)}, {_ratio(row.high)}]"
    return [
        row.preset if row.preset == FROM_NOISE else markdown_code(row.preset),
        row.shape,
        f"{row.parameters:,}",
        str(row.seeds),
        f"{row.first_loss:.3f}",
        f"{row.final_loss:.3f}",
        "" if row.gain is None else f"{row.gain:+.3f}",
        spent,
        f"{_ratio(row.speedup)}{interval}",
        _ratio(row.speedup_tokens),
        _ratio(row.speedup_flops),
    ]


def _ratio(value: float | None) -> str:
    if value is None:
        return ""
    return {0.0: "never", float("inf"): "at once"}.get(value, f"{value:.2f}")


def with_table(page: str, table: str) -> str:
    """Return a Markdown page with a new table in place of the one with the same first header cell.

    Args:
        page: Text of the page.
        table: New table in Markdown.

    Raises:
        DataError: the page has no such table.
    """
    lines, first_cell = page.splitlines(), table[: table.index("|", 1) + 1]
    starts = [number for number, line in enumerate(lines) if line.startswith(first_cell)]
    if not starts:
        raise DataError(f"expected a page with a table that begins with {first_cell}, found none. Put its header back.")
    after = next((number for number in range(starts[0], len(lines)) if not lines[number].startswith("|")), len(lines))
    return "\n".join([*lines[: starts[0]], *table.splitlines(), *lines[after:], ""])
