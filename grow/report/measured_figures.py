"""Figures of evaluations and weight analyses: score trends, symmetry, effective rank, singular values."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from grow.common.figure_style import STYLE, figure_label
from grow.report.measured import SCORES, Measured, Points, protocols

_MOST_RUNS = 4  # panels in a row


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One figure of the page."""

    title: str
    caption: str
    png: bytes


def draw_measured(measured: Sequence[Measured]) -> list[Picture]:
    """Draw a figure for each kind of measurement that at least one run has."""
    grown = [one for one in measured if any(one.symmetry().values())][:_MOST_RUNS]
    analyzed = [one for one in measured if one.spectral_matrices()][:_MOST_RUNS]
    pictures = [_scores(measured, protocol) for protocol in protocols(measured)]
    if grown:
        pictures.append(
            Picture(
                title="Symmetry of the copies",
                caption="Mean cosine between the copies of a row, by matrix: 1 right after cloning without noise. "
                "Figure 5 of arXiv 2409.12903.",
                png=_by_run(grown, lambda one: one.symmetry(), "symmetry"),
            )
        )
    if analyzed:
        pictures.append(
            Picture(
                title="Effective rank",
                caption="The number of directions that a matrix uses: exp of the entropy of its singular values, each "
                "divided by their sum.",
                png=_by_run(analyzed, lambda one: one.effective_rank(), "effective rank"),
            )
        )
        pictures += [_spectra(one) for one in analyzed]
    return pictures


def _scores(measured: Sequence[Measured], protocol: str) -> Picture:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(16, 4.8), layout="constrained")
        panels = figure.subplots(1, len(SCORES))
        for panel, score in zip(panels, SCORES, strict=True):
            for number, one in enumerate(measured):
                for averaged, style in ((False, "-"), (True, "--")):
                    points = one.trend(score, averaged=averaged, protocol=protocol)
                    label = f"{one.label}{', averaged' if averaged else ''}"
                    _line(panel, points, label, color=f"C{number % 10}", linestyle=style)
            panel.set_title(f"mean {score}")
        _finish(figure, panels)
        return Picture(
            title=f"Harness tasks: {protocol}",
            caption="Unweighted mean over the tasks, with standard errors. Tasks without acc_norm count there with "
            "their acc. Bits per byte are those of the right answer.",
            png=_png(figure),
        )


def _by_run(runs: Sequence[Measured], lines: Callable[[Measured], Mapping[str, Points]], name: str) -> bytes:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4 * max(len(runs), 2), 4.8), layout="constrained")
        panels = figure.subplots(1, len(runs), squeeze=False)[0]
        for panel, one in zip(panels, runs, strict=True):
            for number, (label, points) in enumerate(lines(one).items()):
                _line(panel, points, label, color=f"C{number % 10}")
            panel.set_title(figure_label(one.label))
            panel.set_ylabel(name)
        _finish(figure, panels)
        return _png(figure)


def _spectra(one: Measured) -> Picture:
    """Draw a run's singular values at the first and the last analyzed checkpoint."""
    matrices = one.spectral_matrices()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5 * max(len(matrices), 2), 4.4), layout="constrained")
        panels = figure.subplots(1, len(matrices), squeeze=False)[0]
        for panel, matrix in zip(panels, matrices, strict=True):
            for row, style in ((one.analyses[0], "--"), (one.analyses[-1], "-")):
                values = row["spectra"].get(matrix, [])
                panel.plot(range(1, len(values) + 1), values, style, label=f"{row['tokens']:,} tokens")
            panel.set_title(figure_label(matrix), fontsize=10)
            panel.set_xlabel("index")
            panel.set_ylim(bottom=0)
        panels[0].set_ylabel("singular value")
        panels[-1].legend(frameon=False)
        return Picture(
            title=f"Singular values: {one.label}",
            caption="Largest first, at the first and the last analyzed checkpoint. Figure 6 of arXiv 2409.12903.",
            png=_png(figure),
        )


def _line(panel: Any, points: Points, label: str, **style: Any) -> None:
    if points:
        tokens, values, errors = zip(*points, strict=True)
        known = None if None in errors else errors
        panel.errorbar(
            tokens, values, yerr=known, label=figure_label(label), marker="o", markersize=4, capsize=2, **style
        )


def _finish(figure: Figure, panels: Sequence[Any]) -> None:
    for panel in panels:
        panel.set_xlabel("tokens")
    found = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    if found:
        columns = max(1, int(figure.get_figwidth() // 4))  # a column is about 4 inches wide
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns, frameon=False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    return buffer.getvalue()
