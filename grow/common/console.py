"""The console that tables are printed on: as wide as the terminal, or wide enough for any table where there is none."""

from rich.console import Console

_WIDTH = 160
"""Columns of a file or a pipe, which has no width of its own."""


def table_console() -> Console:
    """Return a console that prints to standard output."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)
