"""The links of a chain as one curve: validation loss against all that was spent, by this link and those before it.

The last link's own page, speedup.* and report.html, is what scripts/report.py makes of it: its source is the chain up
to it, so "source included" is the whole chain's cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from grow.common.errors import CheckpointError
from grow.common.markdown import markdown_table
from grow.common.provenance import write_json
from grow.report.curves import AXES, CostAxis, Curve
from grow.report.publish import publish
from grow.report.runs import Run, read_run
from grow.report.settings import ReportConfig
from grow.report.verdict import Verdict, judge
from grow.report.wording import AXIS_NAMES, cost, scale

_DRAWN: tuple[CostAxis, ...] = ("tokens", "flops")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """One link of the chain's curve."""

    run: Run
    total: Curve
    """Its validation points, at what had been spent on the chain by then."""


def report_chain(name: str, config: ReportConfig) -> list[Path]:
    """Write the chain's curve and table, and the last link's speed-up.

    Args:
        name: of the chain, which its last link is called by.
        config: the links in their order, what the last one is held against, and where to write.

    Raises:
        CheckpointError, DataError: a run cannot be read.
        ConfigError: a baseline is none, or nothing can be written.
    """
    stretches = [_stretch(read_run(Path(directory))) for directory in config.runs]
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
    write_json(added[0], [_as_json(stretch) for stretch in stretches])
    added[1].write_text(_as_markdown(name, stretches))
    _draw(stretches, judged, added[2])
    return [*paths, *added]


def table(stretches: Sequence[Stretch]) -> list[list[str]]:
    """A row a link: its name, what it trained, loss before and after, and what the chain had cost by its end."""
    rows = [["link", "layers x width", "trains", "loss before", "loss after", *(AXIS_NAMES[axis] for axis in AXES)]]
    for stretch in stretches:
        config, total = stretch.run.config, stretch.total
        sizes = f"{config['model']['layers']} x {config['model']['embed']}"
        losses = [f"{total.loss[0]:.4f}", f"{total.loss[-1]:.4f}"]
        costs = [cost(axis, total.along(axis)[-1]) for axis in AXES]
        rows.append([stretch.run.name, sizes, config["trainable"]["name"], *losses, *costs])
    return rows


def _stretch(run: Run) -> Stretch:
    before = {axis: 0.0 if run.lineage is None else getattr(run.lineage, axis) for axis in AXES}
    if None in before.values():
        raise CheckpointError(f"{run.directory}: what its source cost is unknown, so it cannot be part of a chain.")
    spent: dict[str, Any] = {axis: run.curve.along(axis) + before[axis] for axis in AXES}
    return Stretch(run=run, total=Curve(**spent, loss=run.curve.loss, averaged=run.curve.averaged))


def _as_json(stretch: Stretch) -> dict[str, Any]:
    total = stretch.total
    averaged = None if total.final_averaged is None else total.averaged.tolist()
    points: dict[str, Any] = {axis: total.along(axis).tolist() for axis in AXES}
    return {"link": stretch.run.name, **points, "loss": total.loss.tolist(), "loss_of_average": averaged}


def _as_markdown(name: str, stretches: Sequence[Stretch]) -> str:
    header, *rows = table(stretches)
    listed = markdown_table(header, rows)
    return f"# Chain {name}\n\nCosts are the chain's up to the end of each link.\n\n{listed}\n\n![](chain.png)\n"


def _draw(stretches: Sequence[Stretch], verdict: Verdict, path: Path) -> None:
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(stretches)))
    figure = Figure(figsize=(13, 5.4), layout="constrained")
    panels = figure.subplots(1, len(_DRAWN), sharey=True)
    for panel, axis in zip(panels, _DRAWN, strict=True):
        divisor, unit = scale(axis, stretches[-1].total.along(axis)[-1])
        if verdict.baseline is not None:
            curve = verdict.baseline.curve
            panel.plot(curve.along(axis) / divisor, curve.loss, color="black", label="target from noise")
        for stretch, colour in zip(stretches, colours, strict=True):
            costs = stretch.total.along(axis) / divisor
            panel.plot(costs, stretch.total.loss, color=colour, marker=".", linewidth=2, label=stretch.run.name)
            panel.axvline(costs[-1], color="#CCCCCC", linewidth=0.8, zorder=0)
        panel.set_xlabel(f"all links, {unit}" if axis == "tokens" else f"all links, 1{unit}")
        panel.set_xlim(left=0)
    panels[0].set_ylabel("validation loss (nats a token)")
    panels[0].set_ylim(*_range(stretches, [] if verdict.baseline is None else [verdict.baseline.curve.final_loss]))
    panels[-1].legend(frameon=False)
    figure.savefig(path, dpi=110)


def _range(stretches: Sequence[Stretch], others: list[float]) -> tuple[float, float]:
    """Room for everything but the first steep fall of the chain."""
    losses = np.concatenate([*(stretch.total.loss for stretch in stretches), others])[1:]
    room = 0.06 * (losses.max() - losses.min() or 1.0)
    return float(losses.min() - room), float(losses.max() + room)
