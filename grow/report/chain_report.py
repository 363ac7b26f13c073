"""The report of a chain: its links as one curve, the validation loss against all that was spent up to each point.

The last link also gets the files of scripts/report.py: speedup.* and report.html. Its source is the chain before it,
so "source included" there is the cost of the whole chain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from grow.common.errors import CheckpointError
from grow.common.figure_style import figure_label
from grow.common.markdown import markdown_table, markdown_text
from grow.common.provenance import write_record
from grow.report.curves import AXES, CostAxis, Curve
from grow.report.publish import publish
from grow.report.runs import Run, read_run
from grow.report.settings import ReportConfig
from grow.report.verdict import Verdict, judge
from grow.report.wording import AXIS_NAMES, cost, scale

_PLOTTED_AXES: tuple[CostAxis, ...] = ("tokens", "flops")


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkCurve:
    """The part of a chain's curve that one link made."""

    run: Run
    total: Curve
    """Validation points of the link, with the costs of the links before it added."""


def report_chain(name: str, config: ReportConfig) -> list[Path]:
    """Write the chain's curve and table, and the last link's speed-up.

    Args:
        name: Name of the chain, which labels its last link.
        config: Links in their order, baselines of the last one, and the output directory.

    Returns:
        The files written.

    Raises:
        CheckpointError, DataError: a run cannot be read, or what its source cost is unknown.
        ConfigError: a baseline started in another way than a baseline has to, or the output cannot be written.
    """
    curves = [_link_curve(read_run(Path(directory))) for directory in config.runs]
    judged = judge(
        config.runs[-1:],
        baseline=config.baseline,
        continued=config.continued,
        amortised_over=config.amortised_over,
    )
    judged.arms[0].arm.label = name
    output = Path(config.output)
    paths = publish(judged, output)
    added = [output / f"chain.{kind}" for kind in ("json", "md", "png")]
    write_record(added[0], [_as_json(curve) for curve in curves])
    added[1].write_text(_as_markdown(name, curves))
    with matplotlib.rc_context({"text.parse_math": False}):  # a $ in a name is a $
        _draw(curves, judged, added[2])
    return [*paths, *added]


def table(curves: Sequence[LinkCurve]) -> list[list[str]]:
    """Return a header, and a row for each link: name, sizes, what it trains, losses, cost of the chain so far."""
    rows = [["link", "layers x width", "trains", "loss before", "loss after", *(AXIS_NAMES[axis] for axis in AXES)]]
    for curve in curves:
        config, total = curve.run.config, curve.total
        sizes = f"{config['model']['layers']} x {config['model']['embed']}"
        losses = [f"{total.loss[0]:.4f}", f"{total.loss[-1]:.4f}"]
        costs = [cost(axis, total.along(axis)[-1]) for axis in AXES]
        rows.append([curve.run.name, sizes, config["trainable"]["name"], *losses, *costs])
    return rows


def _link_curve(run: Run) -> LinkCurve:
    before = {axis: 0.0 if run.lineage is None else getattr(run.lineage, axis) for axis in AXES}
    if None in before.values():
        raise CheckpointError(
            f"{run.directory}: expected a source whose cost is known, found one without it in run.json, so the run "
            "cannot be part of a chain. Leave it out, or train its source with Grow."
        )
    spent: dict[str, Any] = {axis: run.curve.along(axis) + before[axis] for axis in AXES}
    return LinkCurve(run=run, total=Curve(**spent, loss=run.curve.loss, averaged=run.curve.averaged))


def _as_json(curve: LinkCurve) -> dict[str, Any]:
    total = curve.total
    averaged = None if total.final_averaged is None else total.averaged.tolist()
    points: dict[str, Any] = {axis: total.along(axis).tolist() for axis in AXES}
    return {"link": curve.run.name, **points, "loss": total.loss.tolist(), "loss_of_average": averaged}


def _as_markdown(name: str, curves: Sequence[LinkCurve]) -> str:
    header, *rows = table(curves)
    listed = markdown_table(header, rows)
    title = f"# Chain {markdown_text(name)}"
    return f"{title}\n\nCosts are those of the chain up to the end of each link.\n\n{listed}\n\n![](chain.png)\n"


def _draw(curves: Sequence[LinkCurve], verdict: Verdict, path: Path) -> None:
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(curves)))
    figure = Figure(figsize=(13, 5.4), layout="constrained")
    panels = figure.subplots(1, len(_PLOTTED_AXES), sharey=True)
    for panel, axis in zip(panels, _PLOTTED_AXES, strict=True):
        divisor, unit = scale(axis, curves[-1].total.along(axis)[-1])
        if verdict.baseline is not None:
            noise = verdict.baseline.curve
            panel.plot(noise.along(axis) / divisor, noise.loss, color="black", label="target from noise")
        for curve, colour in zip(curves, colours, strict=True):
            costs, label = curve.total.along(axis) / divisor, figure_label(curve.run.name)
            panel.plot(costs, curve.total.loss, color=colour, marker=".", linewidth=2, label=label)
            panel.axvline(costs[-1], color="#CCCCCC", linewidth=0.8, zorder=0)
        panel.set_xlabel(f"all links, {unit}" if axis == "tokens" else f"all links, 1{unit}")
        panel.set_xlim(left=0)
    panels[0].set_ylabel("validation loss (nats per token)")
    panels[0].set_ylim(*_loss_range(curves, [] if verdict.baseline is None else [verdict.baseline.curve.final_loss]))
    panels[-1].legend(frameon=False)
    figure.savefig(path, dpi=110)


def _loss_range(curves: Sequence[LinkCurve], others: list[float]) -> tuple[float, float]:
    """Return limits of the loss axis that hold every point but the first, which lies far above all others."""
    losses = np.concatenate([*(curve.total.loss for curve in curves), others])[1:]
    margin = 0.06 * (losses.max() - losses.min() or 1.0)
    return float(losses.min() - margin), float(losses.max() + margin)
