"""Draws loss against steps: the live weights and each average as one line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from grow.common.figure_style import COLOURS, STYLE, figure_label

_LINES = ("-", "--", ":", "-.")


def draw_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], path: Path, *, y_label: str, title: str = ""
) -> None:
    """Write a figure of label -> (steps, values) as PNG; the first curve, the live weights', is black and thick.

    The y axis ignores the first tenth of the steps, where the loss of a model from noise would hide all differences.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 6), layout="constrained")
        panel = figure.subplots()
        for index, (label, (steps, values)) in enumerate(curves.items()):
            colour, line = COLOURS[(index - 1) % len(COLOURS)], _LINES[(index - 1) // len(COLOURS) % len(_LINES)]
            style: Any = {"color": "black", "linewidth": 2.4} if index == 0 else {"color": colour, "linestyle": line}
            panel.plot(steps, values, label=figure_label(label), marker="o", markersize=3, **style)
        last = max(steps[-1] for steps, _ in curves.values())
        points = [point for steps, values in curves.values() for point in zip(steps, values, strict=True)]
        shown = [value for step, value in points if step >= last / 10]
        height = (max(shown) - min(shown)) or 1.0
        panel.set_ylim(min(shown) - 0.05 * height, max(shown) + 0.05 * height)
        panel.set_xlabel("optimizer steps")
        panel.set_ylabel(y_label)
        panel.set_title(figure_label(title))
        panel.legend(frameon=False, fontsize=10)
        figure.savefig(path, dpi=120)
