"""Debian's documentation as text: converters drop markup, filters drop repeats, a second start fetches the rest."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from grow.common.errors import DataError
from studies import fetch_debian_docs as docs
from studies.markup import html_text, man_text, rst_text, txt_text

PROSE = "The kernel is the part of an operating system that talks to the machine, and it is loaded at the start of it."


def prose(number: int) -> str:
    return "\n\n".join(f"{PROSE} This is paragraph {number}.{part} of the text." for part in range(4))


def test_a_page_without_main_loses_navigation_scripts_and_head():
    page = (
        "<html><head><title>x</title><script>var a = '<p>no</p>'</script></head><body><nav><ul><li>no</li></ul></nav>"
        "<div class='sphinxsidebar'><div>no</div></div><h1>Title<a class='headerlink'>¶</a></h1><p>One\n  two &amp; "
        "<b>three</b>.</p><p>Four</p><div id=footer>no</div></body></html>"
    )
    assert html_text(page) == "Title\nOne two & three.\n\nFour"


def test_main_is_all_of_a_page_that_has_one():
    page = "<p>before</p><div role='main'><div><p>inside</p></div><p>still</p></div><p>after</p>"
    assert html_text(page) == "inside\n\nstill"


def test_preformatted_lines_lists_and_tables_keep_their_lines():
    page = "<p>Run:</p><pre>if x:\n    go()</pre><ul><li>one<li>two</ul><table><tr><td>a<td>b<tr><td>c<td>d</table>"
    assert html_text(page) == "Run:\n\nif x:\n    go()\n\none\ntwo\n\na  b\nc  d"


def test_a_man_page_becomes_paragraphs():
    page = r""".\" a comment
.TH NAME 2
.de XX
no
..
.ie n \{\
.ds C+ no
.\}
.SH DESCRIPTION
The
.BR open (2)
call \fIreally\fP opens\-files, says \(dqhello\(dq\&.
.PP
Second
line.
.nf
int x;
  int y;
.fi
.TS
no
.TE
"""
    expected = 'DESCRIPTION\nThe open(2) call really opens-files, says "hello".\n\nSecond line.\nint x;\n  int y;'
    assert man_text(page) == expected


def test_restructured_text_loses_directives_rules_and_roles():
    page = """.. SPDX-License-Identifier: GPL-2.0

=====
Title
=====

See :ref:`the page <label>` and ``code``::

    kept

.. toctree::
   :maxdepth: 1

   no

.. note:: Mind this.

.. _target:
"""
    assert [line for line in rst_text(page).splitlines() if line] == [
        "Title",
        "See the page and code:",
        "    kept",
        "Mind this.",
    ]


def test_plain_text_loses_its_rules():
    assert txt_text("Title\n=====\n\nText\n") == "Title\n\nText"


def test_a_paragraph_is_kept_once_and_a_document_only_if_most_of_it_is_new():
    seen: set[bytes] = set()
    documents = [
        ("a", prose(1)),
        ("again", prose(1) + "\n\nThis is new but it is not the most of it."),
        ("b", prose(2) + "\n\n" + prose(1).partition("\n\n")[0]),
    ]
    assert list(docs.new_documents(documents, seen)) == [("a", prose(1)), ("b", prose(2))]
    assert len(seen) == 8


@pytest.mark.parametrize(
    "text", ["Too short.", "Der Kern ist ein Teil des Systems und redet mit der Maschine. " * 9, PROSE * 3 + "é" * 50]
)
def test_what_is_short_or_not_english_is_left_out(text):
    assert not docs.is_english(text)
    assert docs.is_english(prose(1))


def archive(path: Path, pages: dict[str, str]) -> Path:
    """Build a tar archive, which stands in for that of a package."""
    with tarfile.open(path, "w") as tar:
        for name, text in pages.items():
            member = tarfile.TarInfo(f"./usr/share/doc/x/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def apt(monkeypatch, tmp_path):
    """Packages that apt would find: name -> pages. Returns the commands that were run."""
    pages = {"one": {"a.txt": prose(1), "b.html": prose(9)}, "two": {"a.txt": prose(1), "c.txt": prose(2)}}
    commands = []

    def run(*command, cwd=None):
        commands.append(command)
        if command[0] == "apt-cache":
            return "".join(f"{name}:\n  Installed: (none)\n  Candidate: 1.{name}\n" for name in pages)
        return str(archive(cwd / "x.deb", pages[command[-1].split("=")[0]]))

    popen = docs.subprocess.Popen
    monkeypatch.setattr(docs, "run", run)
    monkeypatch.setattr(docs.subprocess, "Popen", lambda command, **more: popen(["cat", command[-1]], **more))
    return commands


def texts(directory: Path) -> dict[str, list[str]]:
    return {
        path.stem: [json.loads(line)["id"] for line in path.read_text().splitlines()]
        for path in sorted((directory / "texts").iterdir())
    }


def test_each_package_becomes_one_file_with_what_is_new_in_it(apt, tmp_path):
    docs.fetch("one=txt,two=txt", tmp_path)
    assert texts(tmp_path) == {"one": ["one/doc/x/a.txt"], "two": ["two/doc/x/c.txt"]}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["one"]["version"] == "1.one"
    assert manifest["two"]["sha256"] == docs.digest(tmp_path / "texts" / "two.jsonl")


def test_a_second_start_fetches_only_what_is_missing_and_ends_with_the_same_files(apt, tmp_path):
    docs.fetch("one=txt,two=txt", tmp_path / "whole")
    docs.fetch("one=txt", tmp_path / "parts")
    apt.clear()
    docs.fetch("one=txt,two=txt", tmp_path / "parts")
    assert [command[-1] for command in apt if command[0] == "apt-get"] == ["two=1.two"]
    assert (tmp_path / "parts/manifest.json").read_text() == (tmp_path / "whole/manifest.json").read_text()


def test_a_file_that_is_not_what_the_manifest_says_is_made_again(apt, tmp_path):
    docs.fetch("one=txt", tmp_path)
    (tmp_path / "texts" / "one.jsonl").write_text("half")
    docs.fetch("one=txt", tmp_path)
    assert texts(tmp_path) == {"one": ["one/doc/x/a.txt"]}


def test_a_package_that_breaks_off_leaves_nothing(apt, tmp_path, monkeypatch):
    monkeypatch.setattr(docs, "is_english", lambda text: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        docs.fetch("one=txt", tmp_path)
    assert texts(tmp_path) == {}
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(
    ("packages", "match"),
    [
        ("three", r"three=html\|man"),
        ("one=pdf", "not in the list"),
        ("one=txt,three=txt", "no candidate for three.*To be had of those asked for: one"),
        ("one=man", "expected English man in this package"),
    ],
)
def test_a_mistake_is_one_paragraph(apt, tmp_path, packages, match):
    with pytest.raises(DataError, match=match):
        docs.fetch(packages, tmp_path)


def test_a_machine_without_apt_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="apt-cache: expected Debian's package tools"):
        docs.fetch("manpages", tmp_path)
