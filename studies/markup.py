"""Converts documentation to plain text: HTML, man pages, reStructuredText. Blank lines separate paragraphs.

A heading is put on the line above its first paragraph, so that the two stay together.
"""

import re
from collections.abc import Iterator
from html.parser import HTMLParser


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SKIPPED_TAGS = _names("script style nav header footer aside head form button select svg noscript template")
_SKIPPED_CLASS = re.compile(
    r"(\S*-)?(\S*nav(bar|header|footer|igation|panel)?|\S*sidebar\w*|related|toc|toctree-wrapper|breadcrumbs?|footer"
    r"|header|headerlink|anchor|menu|search\w*|linenos|srclink|copyright|memberhide)(-list|-bar)?"
)
_CLOSED_TAGS = _names(
    "div section ul ol table span a"
)  # always closed in practice, so their end can be found when they are skipped
_HEADINGS = _names("h1 h2 h3 h4 h5 h6")
_PARAGRAPHS = _HEADINGS | _names("p div section article main ul ol dl dd table pre blockquote")
_LINES = _names("br li dt tr")


def html_text(source: str) -> str:
    """Return the text of a page without navigation and scripts, and of <main> only where a page has one."""
    parser = _Page()
    parser.feed(source)
    parser.close()
    return parser.text


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._break = 0  # line ends due before the next text
        self._heading = False  # whether that text belongs to a heading above it
        self._preformatted = 0
        self._skipped, self._depth = "", 0  # element whose content is skipped, and the nesting depth of its tag
        self._main, self._main_depth = "", 0

    @property
    def text(self) -> str:
        return re.sub(r"[ \t]+\n", "\n", "".join(self._parts)).strip("\n")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipped:
            self._depth += tag == self._skipped
            return
        if tag == self._main:
            self._main_depth += 1
        elif not self._main and (tag == "main" or ("role", "main") in attrs):
            self._parts, self._main, self._main_depth = [], tag, 1
        elif _is_furniture(tag, attrs):
            self._skipped, self._depth = tag, 1
            return
        self._end_line(tag)
        self._preformatted += tag == "pre"
        if tag in ("td", "th") and self._parts and not self._break:
            self._parts.append("  ")

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            self._depth -= tag == self._skipped
            if not self._depth:
                self._skipped = ""
            return
        self._end_line(tag)
        self._heading = tag in _HEADINGS or (self._heading and bool(self._break))
        if tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        if tag == self._main:
            self._main_depth -= 1
            if not self._main_depth:
                self._skipped, self._depth = "/", 1  # whatever follows <main>

    def handle_data(self, data: str) -> None:
        if self._skipped or (not data.strip() and (self._break or not self._parts)):
            return
        if not self._preformatted:
            data = re.sub(r"\s+", " ", data)
            data = data.lstrip() if self._break or not self._parts else data
        if self._break and self._parts:
            self._parts.append("\n" if self._heading else "\n" * self._break)
        self._break, self._heading = 0, False
        self._parts.append(data.replace("\N{PILCROW SIGN}", ""))

    def _end_line(self, tag: str) -> None:
        self._break = max(self._break, 2 if tag in _PARAGRAPHS else int(tag in _LINES))


def _is_furniture(tag: str, attrs: list[tuple[str, str | None]]) -> bool:
    if tag in _SKIPPED_TAGS:
        return True
    names = " ".join(value or "" for name, value in attrs if name in ("class", "id", "role")).lower().split()
    return tag in _CLOSED_TAGS and any(map(_SKIPPED_CLASS.fullmatch, names))


def man_text(source: str) -> str:
    """Return the text of a man(7) page: macros become breaks; fonts, tables, definitions and conditions disappear."""
    return re.sub(r" *\n", "\n", "".join(_man_lines(source))).strip("\n")


def _man_lines(source: str) -> Iterator[str]:
    end, filled = "", True  # end mark of a skipped block; whether lines are joined into paragraphs
    for line in source.replace("\\\n", "").splitlines():
        if end:
            end = "" if end in line else end
        elif line[:1] not in (".", "'"):
            yield _untroff(line) + (" " if filled and line.strip() else "\n")
        else:
            name, _, rest = line[1:].strip().partition(" ")
            words = [quoted or plain for quoted, plain in re.findall(r'"((?:[^"]|"")*)"|(\S+)', rest)]
            end = {"TS": ".TE", "EQ": ".EN", "de": "..", "ig": "..", "am": ".."}.get(name, "")
            end = end or ("\\}" if "\\{" in line and "\\}" not in line else "")
            filled = name not in ("nf", "EX", "Vb") and (filled or name in ("fi", "EE", "Ve", "SH"))
            yield _macro(name, [_untroff(word) for word in words], " " if filled else "\n")


def _macro(name: str, words: list[str], ending: str) -> str:
    if name in ("SH", "SS"):
        return f"\n\n{' '.join(words)}\n"
    if name in ("PP", "P", "LP", "TP", "HP", "Sp", "sp", "RS", "RE"):
        return "\n\n"
    if name == "IP":
        return "\n\n" + "".join(f"{word} " for word in words[:1])
    if name in ("B", "I", "SM", "SB"):
        return " ".join(words) + ending
    if name in ("BR", "BI", "IB", "IR", "RB", "RI"):
        return "".join(words) + ending
    return "\n" if name in ("br", "nf", "fi", "EX", "EE", "Vb", "Ve") else ""


_SPELLINGS = {
    "'": "aq Aq oq cq",
    '"': 'dq lq rq Bq L" R" C` C\'',
    "--": "em --",
    "-": "en",
    "*": "bu",
    "^": "ha",
    "~": "ti",
    "\\": "rs",
    "x": "mu",
    "(c)": "co",
    "@": "at",
    "#": "sh",
    "`": "ga",
    "<": "la",
    ">": "ra",
    "<=": "<=",
    ">=": ">=",
}
_GLYPHS = {name: glyph for glyph, names in _SPELLINGS.items() for name in names.split()}
_CHARACTERS = {**{plain: plain for plain in "-\\ .'`"}, "e": "\\", "~": " ", "0": " "}
_ESCAPE = re.compile(
    r"\\(?:f(?:\[[^\]]*\]|\(..|.)|s[-+]?\d+|\*?\((?P<two>..)|\*?\[(?P<long>[^\]]*)\]|\*."
    r"|[hvwlLo]'[^']*'|n\(..|n.|(?P<one>.))"
)


def _untroff(line: str) -> str:
    return _ESCAPE.sub(_unescape, re.sub(r'\\".*', "", line))


def _unescape(match: re.Match[str]) -> str:
    if match["one"]:
        return _CHARACTERS.get(match["one"], "")
    return _GLYPHS.get(match["two"] or match["long"] or "", "")


_RST = (
    (
        r"^\.\. +(?:toctree|contents|index|only|kernel-doc|figure|image|include|SPDX)\b.*\n"
        r"(?:[ \t]+\S.*\n|[ \t]*\n(?=[ \t]))*",
        "",
    ),
    (r"^\.\. +[\w-]+:: *(.*)\n", r"\1\n"),  # other directives keep their argument and body
    (r"^\.\..*\n(?:[ \t]+\S.*\n)*", ""),  # comments, targets, footnotes
    (r"^[ \t]+:[\w -]+:.*\n", ""),
    (r"^([=\-~^\"'`#*+.:_])\1{2,}[ \t]*\n(?:[ \t]*\n)*", ""),  # under and over titles, which stay with their text
    (r"^[ \t]*[=+|\-][=+|\- ]{4,}\n", ""),  # rules of tables
    (r":[\w:+-]+:`([^`<]*?)\s*(?:<[^>]*>)?`", r"\1"),
    (r"`([^`<]*?)\s*<[^>]*>`__?", r"\1"),
    (r"``(.+?)``|\*\*(.+?)\*\*", r"\1\2"),
    (r"::[ \t]*$", ":"),
)


def rst_text(source: str) -> str:
    """Return the text of a reStructuredText page without directives, rules, targets and roles."""
    text = source.expandtabs() + "\n"
    for pattern, replacement in _RST:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text.strip("\n")


def txt_text(source: str) -> str:
    """Return plain text without its ruled lines."""
    return re.sub(r"^[ \t]*([=\-~*_#.+])\1{3,}[ \t]*\n", "", source.replace("\f", "\n"), flags=re.MULTILINE).strip("\n")


CONVERTERS = {"html": html_text, "man": man_text, "rst": rst_text, "txt": txt_text}
