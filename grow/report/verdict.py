"""The verdict on arms against both baselines: the same architecture from noise, and the source trained further."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grow.common.digests import comparable
from grow.report.arms import Arm, differences, read_arms, read_baseline
from grow.report.curves import AXES, SEEDS_FOR_INTERVAL, CostAxis, Curve, Interval, interval
from grow.report.runs import FROM_NOISE, SOURCE_TRAINED_FURTHER
from grow.report.speed import unlike_speeds
from grow.report.speedup import ACCOUNTINGS, Speedup, source_share, speedup

_SAME_LOSS_KEYS = ("model", "data", "objective", "trainer.val_tokens")
"""Config keys, or prefixes of keys, that have to agree for two losses to be comparable."""
_ROUNDING_KEY = "objective.chunk_rows"
"""Key of the objective that changes the loss by rounding alone."""


@dataclass(kw_only=True, slots=True)
class MeasuredSpeedup:
    """The speed-up of an arm's mean curve, and its interval over seeds."""

    speedup: Speedup
    interval: Interval | None
    """95 % interval of `Speedup.as_ratio`, 0 means never reached, infinity no cost; None: too few seeds."""


@dataclass(kw_only=True, slots=True)
class Advantage:
    """An arm compared with the source trained further, at equal cost of these runs alone."""

    axis: CostAxis
    cost: float
    """Cost at which they are compared: the end of the arm, or that of the other where it ended earlier."""
    nats: float
    """Loss of the source trained further minus loss of the arm; positive where the growth paid off."""
    interval: Interval | None
    """95 % interval of `nats`; None: too few seeds."""
    at_end_of_arm: bool
    """Whether `cost` is the end of the arm."""


@dataclass(kw_only=True, slots=True)
class ArmVerdict:
    """All that the report says about one arm; None where the baseline for it was not given."""

    arm: Arm
    speedups: dict[tuple[CostAxis, str], MeasuredSpeedup] | None
    """Speed-up by axis and accounting (F, I, A); nothing on the axis of time where that is left out."""
    advantages: list[Advantage] | None
    """Comparison with the source trained further, in tokens and in FLOPs."""
    notes: list[str]
    """Caveats on the arm's numbers."""


@dataclass(kw_only=True, slots=True)
class Verdict:
    """All that the report shows."""

    arms: list[ArmVerdict]
    baseline: Arm | None
    """The same architecture from noise; None where it was not given."""
    continued: Arm | None
    """The source trained further; None where it was not given."""
    amortised_over: int
    """m of accounting A."""
    time_left_out: str | None
    """Why no times are compared; None where they are."""
    axes: tuple[CostAxis, ...]
    """Costs on which the runs are compared."""


def judge(
    runs: Sequence[str], *, baseline: Sequence[str] = (), continued: Sequence[str] = (), amortised_over: int = 4
) -> Verdict:
    """Read run directories and judge them.

    Args:
        runs: Directories of the runs to judge; seeds of one recipe become one arm.
        baseline: Directories of the same architecture from noise, one for each seed.
        continued: Directories of the source trained further, one for each seed.
        amortised_over: Number m of targets that share the source's cost in accounting A.

    Raises:
        ConfigError: a baseline did not start from noise, or `continued` not from its unchanged source.
        CheckpointError, DataError: a run cannot be read, or the baseline never learned.
    """
    noise = read_baseline("baseline", baseline, FROM_NOISE)
    trained_further = read_baseline("continued", continued, SOURCE_TRAINED_FURTHER)
    arms = read_arms(runs)
    time_left_out = unlike_speeds([arm for arm in (noise, trained_further, *arms) if arm is not None])
    axes = AXES if time_left_out is None else AXES[:2]
    return Verdict(
        arms=[
            ArmVerdict(
                arm=arm,
                speedups=None if noise is None else _speedups(arm, noise, amortised_over, axes),
                advantages=None if trained_further is None else _advantages(arm, trained_further),
                notes=_notes(arm, noise, trained_further),
            )
            for arm in arms
        ],
        baseline=noise,
        continued=trained_further,
        amortised_over=amortised_over,
        time_left_out=time_left_out,
        axes=axes,
    )


def _speedups(
    arm: Arm, baseline: Arm, amortised_over: int, axes: Sequence[CostAxis]
) -> dict[tuple[CostAxis, str], MeasuredSpeedup]:
    found = {}
    for axis in axes:
        for accounting in ACCOUNTINGS:
            cost = source_share(accounting, arm.source_cost(axis), amortised_over)
            found[axis, accounting] = _measure(arm, baseline, axis, cost)
    return found


def _measure(arm: Arm, baseline: Arm, axis: CostAxis, source_cost: float | None) -> MeasuredSpeedup:
    def ratio(run: Curve, noise: Curve) -> float:
        return speedup(run, noise, axis=axis, source_cost=source_cost).as_ratio

    return MeasuredSpeedup(
        speedup=speedup(arm.curve, baseline.curve, axis=axis, source_cost=source_cost),
        interval=None if source_cost is None else interval(ratio, arm.curves, baseline.curves),
    )


def _advantages(arm: Arm, continued: Arm) -> list[Advantage]:
    return [_advantage(arm, continued, axis) for axis in AXES[:2]]


def _advantage(arm: Arm, continued: Arm, axis: CostAxis) -> Advantage:
    end = arm.curve.along(axis)[-1]
    cost = float(min(end, continued.curve.along(axis)[-1]))

    def nats(run: Curve, trained_further: Curve) -> float:
        return trained_further.loss_at(cost, axis) - run.loss_at(cost, axis)

    return Advantage(
        axis=axis,
        cost=cost,
        nats=nats(arm.curve, continued.curve),
        interval=interval(nats, arm.curves, continued.curves),
        at_end_of_arm=bool(cost == end),
    )


def _notes(arm: Arm, baseline: Arm | None, continued: Arm | None) -> list[str]:
    """Return the caveats that a reader of the arm's numbers has to know."""
    notes = [*_unfinished(arm), *_repeated_seeds(arm)]
    if baseline is not None:
        notes += [*_differences(arm, baseline), *_unfinished(baseline, "the baseline's run ")]
        if len(baseline.runs) < SEEDS_FOR_INTERVAL <= len(arm.runs):
            notes.append(f"The baseline has n={len(baseline.runs)}: the intervals do not include its own spread.")
    if continued is not None:
        notes += _different_source(arm, continued)
    return notes


def _unfinished(arm: Arm, whose: str = "") -> list[str]:
    notes = []
    for run in arm.runs:
        trainer = run.config.get("trainer") or {}
        planned, tokens = trainer.get("max_tokens"), run.curve.tokens[-1]
        if planned and tokens + trainer.get("tokens_per_step", 0) < planned:
            notes.append(f"Unfinished: {whose}{run.name} was validated up to {tokens:,.0f} of {planned:,} tokens.")
    return notes


def _repeated_seeds(arm: Arm) -> list[str]:
    seeds = [(run.seed, run.lineage and run.lineage.digest) for run in arm.runs]
    if len(set(seeds)) == len(seeds):
        return []
    return ["Runs share a seed and a source: they are counted as different seeds but are not independent."]


def _differences(arm: Arm, baseline: Arm) -> list[str]:
    """Return notes on settings, besides the growth, in which the arm differs from the baseline."""
    found = differences(arm.runs[0], baseline.runs[0])
    unfair = {key: pair for key, pair in found.items() if key.startswith(_SAME_LOSS_KEYS) and key != _ROUNDING_KEY}
    other = {key: pair for key, pair in found.items() if key not in unfair and not key.startswith(("growth", "source"))}
    notes = [f"NOT COMPARABLE with the baseline: {_listed(unfair)}."] if unfair else []
    return notes + ([f"Also differs from the baseline in {_listed(other)}."] if other else [])


def _listed(pairs: dict[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{key}={here} (baseline {there})" for key, (here, there) in pairs.items())


def _different_source(arm: Arm, continued: Arm) -> list[str]:
    here, there = ({run.lineage.digest for run in group.runs if run.lineage} for group in (arm, continued))
    if here and not any(first == second or not comparable(first, second) for first in here for second in there):
        return ["The source trained further is not the source that this arm grew from (their digests differ)."]
    return []
