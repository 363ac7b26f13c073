"""The table of merging presets: what each does and where it is from, out of the presets' own files."""

from pathlib import Path

from rich.table import Table

from grow.common.console import table_console
from grow.common.markdown import Markdown, markdown_code, markdown_table
from grow.growth.gallery import presets

_HEADER = ("merging=", "what it does", "source")


def show_merging_presets(directory: Path) -> None:
    """Print the presets of a directory: a table as wide as the terminal, and Markdown where there is none."""
    found, console = presets(directory), table_console()
    if not console.is_terminal:
        rows = [(markdown_code(each.name), Markdown(each.does), Markdown(each.reference)) for each in found]
        print(markdown_table(_HEADER, rows))
        return
    shown = Table(*_HEADER, show_lines=True)
    for each in found:
        shown.add_row(each.name, each.does, each.reference)
    console.print(shown)
