"""The sentences and table cells of a verdict, shared by the terminal, the Markdown file and the page."""

import math
from collections.abc import Sequence

from grow.report.arms import Arm
from grow.report.curves import AXES, SEEDS_FOR_INTERVAL, CostAxis, Interval
from grow.report.speedup import ACCOUNTINGS, Speedup, SpeedupOutcome
from grow.report.verdict import Advantage, ArmVerdict, MeasuredSpeedup, Verdict

NO_BASELINE = "baseline missing (baseline=DIR)"
TIME_LEFT_OUT = "left out: not measured alike"
NO_CONTINUED = "missing (continued=DIR)"
AXIS_NAMES: dict[CostAxis, str] = {"tokens": "tokens", "flops": "FLOPs", "seconds": "seconds"}

_SCALES: dict[CostAxis, list[tuple[float, str]]] = {
    "tokens": [(1e12, "T tokens"), (1e9, "B tokens"), (1e6, "M tokens"), (1e3, "k tokens"), (1, "tokens")],
    "flops": [(10.0 ** (3 * power), f"e{3 * power} FLOPs") for power in range(9, -1, -1)],
    "seconds": [(3600, "h"), (60, "min"), (1, "s")],
}


def accounting_names(amortised_over: int) -> dict[str, str]:
    """Return a short name for each accounting letter."""
    return {
        "F": "F: source free",
        "I": "I: source included",
        "A": f"A: source shared by {amortised_over}",
    }


def scale(axis: CostAxis, largest: float) -> tuple[float, str]:
    """Return the unit that fits numbers up to `largest`: its divisor and its name."""
    return next((unit for unit in _SCALES[axis] if largest >= unit[0]), _SCALES[axis][-1])


def cost(axis: CostAxis, value: float) -> str:
    """Return a cost with its unit: `1.31M tokens`, `2.40e15 FLOPs`, `3.5 min`."""
    divisor, name = scale(axis, value)
    separator = "" if name[0] in "TBMke" and axis != "seconds" else " "
    return f"{value / divisor:.3g}{separator}{name}"


def speedup_cell(measured: MeasuredSpeedup | None) -> str:
    """Return the cell of one speed-up: `2.10x [1.90, 2.31], saves 52%`, or why there is no number."""
    if measured is None:
        return NO_BASELINE
    found = measured.speedup
    if found.outcome is SpeedupOutcome.UNKNOWN:
        return "unknown: the source's cost was not recorded"
    if found.outcome is SpeedupOutcome.NEVER_REACHED:
        return f"never reached, {found.gap:.3f} nats short{_ratio_interval(measured.interval)}"
    if found.speedup is None:
        return f"{found.outcome}, at no cost{_ratio_interval(measured.interval)}"
    there = f", {found.outcome}" if found.outcome is SpeedupOutcome.ALREADY_THERE else ""
    return f"{found.speedup:.2f}x{_ratio_interval(measured.interval)}, {_saving(found)}{there}"


def _saving(found: Speedup) -> str:
    saving = found.saving or 0.0
    return f"saves {saving:.0%}" if saving >= 0 else f"costs {-saving:.0%} more"


def _ratio_interval(ends: Interval | None) -> str:
    if ends is None:
        return ""
    words = {0.0: "never", math.inf: "at no cost"}
    return " [" + ", ".join(words.get(end, f"{end:.2f}") for end in ends) + "]"


def seeds(arm: Arm) -> str:
    """Return the number of seeds: `n=3`, or `n=2, no interval` where they are too few for one."""
    count = len(arm.runs)
    return f"n={count}" if count >= SEEDS_FOR_INTERVAL else f"n={count}, no interval"


def target_sentence(verdict: Verdict) -> str:
    """Return the sentence on the baseline from noise, and the one that says why time is left out where it is."""
    left_out = "" if verdict.time_left_out is None else f" {verdict.time_left_out}"
    if verdict.baseline is None:
        return f"No baseline from noise was given (baseline=DIR), so there is no target loss and no speed-up.{left_out}"
    target = f"Target: {verdict.baseline.curve.final_loss:.4f} nats, the final loss of training from noise"
    return f"{target} ({seeds(verdict.baseline)}) after {_spent(verdict.baseline, verdict.axes)}.{left_out}"


def continued_sentence(verdict: Verdict) -> str:
    """Return the sentence on the source trained further, the second baseline."""
    if verdict.continued is None:
        return (
            "No run of the source trained further was given (continued=DIR), so it is unknown whether growth pays off."
        )
    ended = f"The source, trained further, ended at {verdict.continued.curve.final_loss:.4f} nats"
    return f"{ended} ({seeds(verdict.continued)}) after {_spent(verdict.continued, verdict.axes)}."


def _spent(arm: Arm, axes: Sequence[CostAxis]) -> str:
    return ", ".join(cost(axis, arm.curve.along(axis)[-1]) for axis in axes)


def advantage_sentence(advantage: Advantage) -> str:
    """Return one sentence on whether growing was better than training the source further."""
    equal = f"at equal {AXIS_NAMES[advantage.axis]}"
    if not advantage.at_end_of_arm:
        equal += f" (compared at {cost(advantage.axis, advantage.cost)}, where the source's training ended)"
    ends = "" if advantage.interval is None else " [{:+.3f}, {:+.3f}]".format(*advantage.interval)
    if advantage.interval is not None and advantage.interval[0] <= 0 <= advantage.interval[1]:
        return f"no clear difference from training the source further {equal}: {advantage.nats:+.3f} nats{ends}"
    if advantage.nats > 0:
        return f"beats training the source further by {advantage.nats:.3f} nats{ends} {equal}"
    return f"gained nothing: {-advantage.nats:.3f} nats{ends} worse than training the source further {equal}"


def headline(verdict: ArmVerdict, amortised_over: int) -> str:
    """Return one line on an arm: its speed-up in tokens under each accounting."""
    if verdict.speedups is None:
        return f"{verdict.arm.label}: {NO_BASELINE}."
    names = accounting_names(amortised_over)
    parts = [f"{names[key][3:]}: {speedup_cell(verdict.speedups['tokens', key])}" for key in ACCOUNTINGS]
    return f"{verdict.arm.label}, speed-up in tokens: {'; '.join(parts)}."


def speedup_table(verdict: Verdict) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the speed-ups: three rows for each arm, one for each accounting.

    There is one more column where an arm has averaged weights.
    """
    finals = [judged.arm.curve.final_averaged for judged in verdict.arms]
    averaged = any(final is not None for final in finals)
    header = ["arm", "seeds", "final loss", *["averaged weights"] * averaged, "accounting", "tokens", "FLOPs", "time"]
    rows = []
    for judged, final in zip(verdict.arms, finals, strict=True):
        arm, found = judged.arm, judged.speedups
        average = ["none" if final is None else f"{final:.4f}"] * averaged
        for key, name in accounting_names(verdict.amortised_over).items():
            first = [arm.label, seeds(arm), f"{arm.curve.final_loss:.4f}", *average]
            cells = [speedup_cell(found[axis, key] if found else None) for axis in verdict.axes]
            cells += [TIME_LEFT_OUT] * (len(AXES) - len(cells))
            rows.append([*(first if key == "F" else [""] * len(first)), name, *cells])
    return header, rows


def continued_table(verdict: Verdict) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the comparison with the source trained further: one row for each arm."""
    header = ["arm", "against the source trained further, equal tokens", "equal FLOPs"]
    rows = []
    for judged in verdict.arms:
        sentences = [advantage_sentence(advantage) for advantage in judged.advantages or ()]
        rows.append([judged.arm.label, *(sentences or [NO_CONTINUED, NO_CONTINUED])])
    return header, rows
