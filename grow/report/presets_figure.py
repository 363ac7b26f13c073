"""The figure of the measured growth presets: curves of each shape, and final losses against FLOPs."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from grow.common.figure_style import STYLE, figure_label
from grow.report.speedup_figure import draw_arm, loss_range, styled
from grow.report.verdict import Verdict

_COLUMNS = 4


def draw_shapes(shapes: dict[str, Verdict], path: Path) -> None:
    """Draw a panel of curves for each shape (tokens below, FLOPs above) and a panel of the final losses of all shapes.

    Thin lines are seeds, thick lines their mean; black is from noise.

    Args:
        shapes: By shape: the verdict on its presets.
        path: PNG file to write.
    """
    drawn = {shape: verdict for shape, verdict in shapes.items() if verdict.baseline is not None}
    with matplotlib.rc_context({**STYLE, "font.size": 10}):
        height = -(-(len(drawn) + 1) // _COLUMNS)
        figure = Figure(figsize=(4.5 * _COLUMNS, 4.2 * height), layout="constrained")
        panels = figure.subplots(height, _COLUMNS, squeeze=False).flatten()
        for panel, (shape, verdict) in zip(panels, drawn.items(), strict=False):
            _draw_shape(panel, shape, verdict)
        _draw_ends(panels[len(drawn)], shapes)
        for panel in panels[len(drawn) + 1 :]:
            panel.set_axis_off()
        figure.savefig(path, dpi=72)


def _draw_shape(panel: Any, shape: str, verdict: Verdict) -> None:
    thousand = 1e3
    for arm, colour, marker in styled(verdict):
        draw_arm(panel, "tokens", arm, thousand, {"color": colour, "marker": marker})
    per_token = verdict.arms[0].arm.runs[0].model["flops_per_token"]
    above = panel.secondary_xaxis("top", functions=(lambda k: k * per_token / 1e9, lambda t: t * 1e9 / per_token))
    above.set_xlabel(f"{figure_label(shape)}: TFLOPs, then thousands of tokens")
    panel.set_ylim(*loss_range(verdict))
    panel.legend(frameon=False, fontsize=8)


def _draw_ends(panel: Any, shapes: dict[str, Verdict]) -> None:
    """Draw final losses against the FLOPs of runs and their sources together."""
    for number, (shape, verdict) in enumerate(shapes.items()):
        arms = [judged.arm for judged in verdict.arms]
        spent = [arm.curve.flops[-1] + (arm.source_cost("flops") or 0.0) for arm in arms]
        losses = [arm.curve.final_loss for arm in arms]
        panel.plot([each / 1e12 for each in spent], losses, "o", color=f"C{number}", label=figure_label(shape))
        if verdict.baseline is not None:
            end = verdict.baseline.curve
            panel.plot(end.flops[-1] / 1e12, end.final_loss, "x", color=f"C{number}", markersize=9)
    panel.set_xlabel("TFLOPs, sources included; x: from noise")
    panel.set_ylabel("final validation loss")
    panel.legend(frameon=False, fontsize=8)
