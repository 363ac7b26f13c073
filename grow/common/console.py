"""The console that tables are printed on: as wide as the terminal, or wide enough for any table where there is none.

Whatever text is printed on it is shown as it is: it is no markup, and its control characters are spelled out.
"""

from typing import Any

from rich.console import Console
from rich.text import Text

from grow.common.printed import printable

_WIDTH = 160
"""Columns of a file or a pipe, which has no width of its own."""


class TableConsole(Console):
    """A console for text that comes from names and files, such as the cells of a table."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **how: Any) -> Text:
        """Turn a string into rich text; rich calls this for every string that it prints."""
        return super().render_str(printable(text), **how)

    def on_broken_pipe(self) -> None:
        """Raise the error of a closed pipe, where rich would exit; rich calls this while it handles that error."""
        raise


def table_console() -> Console:
    """Return a console that prints to standard output."""
    console = TableConsole()
    return console if console.is_terminal else TableConsole(width=_WIDTH)
