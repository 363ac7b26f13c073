"""Text and tables in Markdown. What comes from names and files is text: it makes no links, tags, cells or code."""

import html
import re
from collections.abc import Iterable, Sequence

from grow.common.printed import printable

_MEANS_SOMETHING = re.compile(r"[\\`|]|\](?=[(\[:]|$)")  # a ] that no ( or [ or : follows ends no link
_IN_CODE = str.maketrans("`|", "'\u00a6")


class Markdown(str):
    """Text that is Markdown already and is not escaped again, as `markupsafe.Markup` is HTML."""


def markdown_text(text: str) -> Markdown:
    """Return one line of Markdown that shows a text as it is; Markdown is returned unchanged."""
    if isinstance(text, Markdown):
        return text
    line = html.escape(" ".join(printable(text).split()), quote=False)
    return Markdown(_MEANS_SOMETHING.sub(r"\\\g<0>", line))


def markdown_code(text: str) -> Markdown:
    """Return a text as code, which cannot be escaped: a backtick becomes an apostrophe, and a bar a broken bar."""
    line = " ".join(printable(text).split())
    return Markdown(f"`{line.translate(_IN_CODE)}`")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, one line for each row."""
    lines = [header, [Markdown("---")] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(markdown_text, line))} |" for line in lines)
