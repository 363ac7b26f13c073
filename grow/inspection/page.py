"""The page of an inspection: one HTML file with its plots inside, which needs no network."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment
from matplotlib.figure import Figure

from grow.common.errors import ConfigError
from grow.common.figure_style import COLOURS, STYLE, figure_label
from grow.common.printed import printable
from grow.inspection.sequences import ReadSequence
from grow.inspection.statistics import SourceStatistics

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1.25rem; }
  table { border-collapse: collapse; } th, td { text-align: left; padding: .3rem 1rem .3rem 0; }
  th { border-bottom: 2px solid #bbb; } img { max-width: 100%; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; padding: .8rem; font-size: .85rem; }
</style></head><body>
<h1>{{ title }}</h1>
{% for line in lines %}<p>{{ line }}</p>{% endfor %}
<h2>Sources</h2>
<table><tr>{% for cell in header %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table>
<img alt="Lengths of documents" src="data:image/png;base64,{{ figure }}">
<h2>Sequences</h2>
{% for one in sequences %}
<h3>{{ one.position }}: {{ one.source }}</h3><p>{{ one.file }}, token {{ one.token }}</p><pre>{{ one.text }}</pre>
{% endfor %}
</body></html>
"""

HEADER = ("source", "training tokens", "validation tokens", "documents", "median length", "one token", "odd characters")


def source_row(found: SourceStatistics) -> tuple[str, ...]:
    """Return the cells of a source, under HEADER."""
    return (
        found.source,
        f"{found.train_tokens:,}",
        f"{found.validation_tokens:,}",
        "not counted" if found.documents is None else f"{found.documents:,}",
        f"{np.median(found.lengths):,.0f} tokens" if len(found.lengths) else "-",
        "-" if found.one_token is None else f"{found.one_token:.2%}",
        "-" if found.odd_characters is None else f"{found.odd_characters:.4%}",
    )


def write_page(
    directory: Path,
    *,
    title: str,
    lines: Sequence[str],
    sources: Sequence[SourceStatistics],
    sequences: Sequence[ReadSequence],
) -> Path:
    """Write index.html into a directory, which is made if needed, and return its path.

    Args:
        directory: Directory of the page.
        title: Headline.
        lines: Sentences below it.
        sources: What each source holds.
        sequences: What the run reads.

    Raises:
        ConfigError: the directory cannot be made or written to.
    """
    shown: dict[str, Any] = {"title": title, "lines": lines, "header": HEADER, "sequences": sequences}
    page = Environment(autoescape=True, finalize=lambda value: printable(str(value))).from_string(_PAGE)
    text = page.render(**shown, rows=map(source_row, sources), figure=base64.b64encode(_lengths(sources)).decode())
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "index.html").write_text(text)
    except OSError as error:
        raise ConfigError(f"output={directory}: expected a directory to write to, found {error.strerror}.") from None
    return directory / "index.html"


def _lengths(sources: Sequence[SourceStatistics]) -> bytes:
    """Return a histogram of the documents' lengths as PNG, one line for each source."""
    longest = max((int(found.lengths.max()) for found in sources if len(found.lengths)), default=1)
    edges = np.geomspace(1, longest + 1, 40)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4), layout="constrained")
        panel = figure.subplots()
        for number, found in enumerate(found for found in sources if len(found.lengths)):
            share = np.histogram(found.lengths, edges)[0] / len(found.lengths)
            panel.stairs(share, edges, label=figure_label(found.source), color=COLOURS[number % len(COLOURS)])
        panel.set_xscale("log")
        panel.set_xlabel("tokens of a document")
        panel.set_ylabel("share of documents")
        if panel.get_legend_handles_labels()[0]:
            panel.legend(frameon=False, fontsize=9)
        content = io.BytesIO()
        figure.savefig(content, dpi=110, format="png")
    return content.getvalue()
