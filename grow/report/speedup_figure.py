"""The figure of a verdict: loss against tokens, FLOPs and seconds, and where each arm reaches the target."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from grow.common.figure_style import COLOURS, STYLE, figure_label
from grow.report.arms import Arm
from grow.report.curves import CostAxis
from grow.report.verdict import Verdict
from grow.report.wording import scale

_BASELINE = ("#000000", "o")
_CONTINUED = ("#7F7F7F", "s")
_ARMS = list(zip((*COLOURS, "#8C510A"), "D^vPXh*", strict=True))  # markers distinguish them in grey print
_AXIS_TITLES: dict[CostAxis, str] = {"tokens": "{unit}", "flops": "1{unit}", "seconds": "training time ({unit})"}


def draw(verdict: Verdict, path: Path) -> None:
    """Draw the figure and write it as PNG.

    Thin lines are seeds, thick lines their mean, dashed lines the mean for averaged weights. Rings mark where an arm
    reaches the target. In the FLOPs panel a faint copy of each mean is shifted by its source's FLOPs, where known. A
    title says so where there is no panel of time.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(16, 5.6), layout="constrained")
        if verdict.time_left_out is not None:
            figure.suptitle(verdict.time_left_out, fontsize="medium")
        panels = figure.subplots(1, len(verdict.axes), sharey=True)
        for panel, axis in zip(panels, verdict.axes, strict=True):
            _draw_panel(panel, axis, verdict)
        panels[0].set_ylabel("validation loss (nats per token)")
        panels[0].set_ylim(*loss_range(verdict))
        handles, _ = panels[0].get_legend_handles_labels()
        handles.append(Line2D([], [], color="grey", alpha=0.3, linewidth=2.4, label="faint: source's FLOPs added"))
        if any(_has_average(arm) for arm, _, _ in styled(verdict)):
            handles.append(Line2D([], [], color="grey", linestyle="--", label="dashed: averaged weights"))
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), frameon=False)
        figure.savefig(path, dpi=110)


def styled(verdict: Verdict) -> Iterator[tuple[Arm, str, str]]:
    """Yield every arm with its colour and marker; later ones are drawn on top."""
    if verdict.baseline is not None:
        yield verdict.baseline, *_BASELINE
    if verdict.continued is not None:
        yield verdict.continued, *_CONTINUED
    for index, judged in enumerate(verdict.arms):
        yield judged.arm, *_ARMS[index % len(_ARMS)]


def _draw_panel(panel: Any, axis: CostAxis, verdict: Verdict) -> None:
    arms = list(styled(verdict))
    divisor, unit = scale(axis, max(arm.curve.along(axis)[-1] for arm, _, _ in arms))
    for arm, colour, marker in arms:
        draw_arm(panel, axis, arm, divisor, {"color": colour, "marker": marker})
    if verdict.baseline is not None:
        target = verdict.baseline.curve.final_loss
        panel.axhline(target, color="black", linestyle="--", linewidth=1.2, label="target: final loss from noise")
        _mark_crossings(panel, axis, verdict, divisor)
    panel.set_xlabel(_AXIS_TITLES[axis].format(unit=unit))
    panel.set_xlim(left=0)


def draw_arm(panel: Any, axis: CostAxis, arm: Arm, divisor: float, style: dict[str, str]) -> None:
    """Draw one arm in one panel: live weights solid, averaged weights dashed.

    Args:
        panel: Matplotlib axes to draw in.
        axis: Cost on the x-axis.
        arm: Arm whose curves are drawn.
        divisor: Cost of one unit of the x-axis.
        style: Colour and marker of the arm.
    """
    for curve in arm.curves if len(arm.curves) > 1 else ():
        panel.plot(curve.along(axis) / divisor, curve.loss, color=style["color"], linewidth=0.8, alpha=0.5)
    costs, loss = arm.curve.along(axis) / divisor, arm.curve.loss
    panel.plot(
        costs,
        loss,
        **style,
        linewidth=2.4,
        markersize=5,
        markevery=max(1, len(loss) // 10),
        label=figure_label(arm.label),
    )
    if _has_average(arm):
        panel.plot(costs, arm.curve.averaged, color=style["color"], linestyle="--", linewidth=1.8)
    source = arm.source_cost(axis) if axis == "flops" else None
    if source:
        panel.plot(costs + source / divisor, loss, color=style["color"], linewidth=2.4, alpha=0.3)


def _has_average(arm: Arm) -> bool:
    return not np.isnan(arm.curve.averaged).all()


def _mark_crossings(panel: Any, axis: CostAxis, verdict: Verdict, divisor: float) -> None:
    colours = {arm.label: colour for arm, colour, _ in styled(verdict)}
    for index, judged in enumerate(verdict.arms):
        found = (judged.speedups or {})[axis, "F"].speedup
        if found.cost_run is None:
            continue
        colour, place = colours[judged.arm.label], (found.cost_run / divisor, found.target_loss)
        panel.plot(*place, marker="o", markersize=12, fillstyle="none", markeredgewidth=2, color=colour, clip_on=False)
        panel.vlines(place[0], 0, place[1], color=colour, linestyle=":", linewidth=1.5)
        text = f" {found.speedup:.2f}x" if found.speedup else " from the start"
        height = 0.02 + 0.06 * (index % 3)
        label = panel.text(place[0], height, text, transform=panel.get_xaxis_transform(), color=colour, weight="bold")
        label.set_path_effects([withStroke(linewidth=3, foreground="white")])


def loss_range(verdict: Verdict) -> tuple[float, float]:
    """Return limits of the loss axis that cut off the first tenth of the curves, where losses from noise are high."""
    curves = [arm.curve for arm, _, _ in styled(verdict)]
    top = max(curve.loss_at(0.1 * curve.tokens[-1], "tokens") for curve in curves)
    bottom = min(float(np.nanmin([curve.loss, curve.averaged])) for curve in curves)
    height = (top - bottom) or 1.0
    return bottom - 0.2 * height, top + 0.05 * height
