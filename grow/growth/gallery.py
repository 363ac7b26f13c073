"""The table of growth presets: what each does and preserves, its paper, and what it was measured to be worth.

The first two come from the preset's own file.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from grow.common.console import table_console
from grow.common.markdown import Markdown, markdown_code, markdown_table

_HEADER = ("growth=", "what it does", "first loss", "speed-up", "source")
_NUMBERS_WIDTH = 8  # columns of the terminal; the two texts share what the others leave


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """One file of configs/growth/."""

    name: str
    does: str
    """Its opening comment: what it does, and whether that keeps the function."""
    reference: str


def presets(directory: Path) -> list[Preset]:
    """Read the presets of a directory, by name; a file without a `reference` is not a preset."""
    found = (_preset(path) for path in sorted(directory.glob("*.yaml")))
    return [preset for preset in found if preset.reference]


def _preset(path: Path) -> Preset:
    lines = path.read_text().splitlines()
    comments = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    references = [line.partition(":")[2].strip(" '") for line in lines if line.startswith("reference:")]
    return Preset(name=path.stem, does=" ".join(comments), reference="".join(references))


def table(directory: Path, measured: Path) -> str:
    """Return the presets as a Markdown table, one line for each.

    Args:
        directory: Directory of the presets.
        measured: Table that studies/report_presets.py wrote; the first row of a preset is shown.
    """
    rows = [(markdown_code(name), *map(Markdown, others)) for name, *others in _rows(directory, measured)]
    return markdown_table(_HEADER, rows)


def show(directory: Path, measured: Path) -> None:
    """Print the presets: a table as wide as the terminal, and Markdown where there is none.

    Args:
        directory: Directory of the presets.
        measured: Table of their measurements, as for `table`.
    """
    console = table_console()
    if not console.is_terminal:
        print(table(directory, measured))
        return
    shown = Table(show_lines=True)
    shown.add_column(_HEADER[0], no_wrap=True)
    shown.add_column(_HEADER[1], overflow="fold", ratio=3)
    shown.add_column(_HEADER[2], width=_NUMBERS_WIDTH)
    shown.add_column(_HEADER[3], width=_NUMBERS_WIDTH)
    shown.add_column(_HEADER[4], overflow="fold", ratio=2)
    for row in _rows(directory, measured):
        shown.add_row(*row)
    console.print(shown)


def _rows(directory: Path, measured: Path) -> list[tuple[str, ...]]:
    with measured.open() as file:
        found = {row["preset"]: row for row in reversed(list(csv.DictReader(file)))}
    return [(each.name, each.does, *_worth(found.get(each.name)), each.reference) for each in presets(directory)]


def _worth(row: dict[str, str] | None) -> tuple[str, str]:
    """Return two cells: the loss right after growth, and the speed-up with the source's cost left out."""
    if row is None:
        return "", ""
    words, ratio = {"": "", "0": "never", "inf": "at once"}, row["speedup"]
    return f"{float(row['first_loss']):.2f}", words[ratio] if ratio in words else f"{float(ratio):.2f}"
