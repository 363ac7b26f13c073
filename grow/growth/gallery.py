"""The table of growth presets: what each does and preserves, and the paper it stands for, as its own file says."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """One file of configs/growth/."""

    name: str
    does: str
    """Its opening comment: what it does, and whether that keeps the function."""
    reference: str


def presets(directory: Path) -> list[Preset]:
    """The presets of a directory, by name; files without a `reference` are none."""
    found = (_preset(path) for path in sorted(directory.glob("*.yaml")))
    return [preset for preset in found if preset.reference]


def _preset(path: Path) -> Preset:
    lines = path.read_text().splitlines()
    comments = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    references = [line.partition(":")[2].strip(" '") for line in lines if line.startswith("reference:")]
    return Preset(name=path.stem, does=" ".join(comments), reference="".join(references))


def table(directory: Path) -> str:
    """The presets as a Markdown table, one a line."""
    rows = [f"| `{each.name}` | {each.does} | {each.reference} |" for each in presets(directory)]
    return "\n".join(["| growth= | what it does | source |", "| --- | --- | --- |", *rows])
