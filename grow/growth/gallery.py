"""The table of growth presets: what each does and preserves, its paper, and what it was measured to be worth.

The first two come from the preset's own file.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from grow.common.markdown import markdown_table


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
    with measured.open() as file:
        found = {row["preset"]: row for row in reversed(list(csv.DictReader(file)))}
    rows = [(f"`{each.name}`", each.does, *_worth(found.get(each.name)), each.reference) for each in presets(directory)]
    return markdown_table(("growth=", "what it does", "first loss", "speed-up", "source"), rows)


def _worth(row: dict[str, str] | None) -> tuple[str, str]:
    """Return two cells: the loss right after growth, and the speed-up with the source's cost left out."""
    if row is None:
        return "", ""
    words, ratio = {"": "", "0": "never", "inf": "at once"}, row["speedup"]
    return f"{float(row['first_loss']):.2f}", words[ratio] if ratio in words else f"{float(ratio):.2f}"
