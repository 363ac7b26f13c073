"""The style that all figures share: matplotlib settings and colours."""

from typing import Any

from grow.common.printed import printable

STYLE: Any = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "text.parse_math": False,
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours that colour-blind readers can distinguish (Okabe & Ito 2008)."""


def figure_label(text: str) -> str:
    """Return a name as one line of a figure: no control characters, and no _ first, which hides it from a legend."""
    line = " ".join(printable(text).split())
    return f" {line}" if line.startswith("_") else line
