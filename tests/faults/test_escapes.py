"""Names that command a terminal, or mean something in a table, a page or a figure, are shown as they are."""

import json
import re
import warnings

import pytest
from matplotlib.figure import Figure
from rich.table import Table

from grow.common.console import TableConsole
from grow.common.figure_style import figure_label
from grow.common.markdown import Markdown, markdown_code, markdown_table, markdown_text
from grow.common.printed import printable, say
from grow.evaluation.task_progress import EvaluationProgress
from grow.report.publish import as_html, as_markdown, as_tables, publish
from grow.report.verdict import judge
from grow.training.loop.progress import ProgressDisplay
from tests.report.conftest import SOURCE, _write_run

COMMANDS = {
    "ESC": "\x1b",
    "red": "\x1b[31mred\x1b[0m",
    "clear screen": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "CSI of one byte": "\x9b31m",
    "OSC of one byte": "\x9d0;owned\x9c",
    "bell": "\x07",
    "backspace": "bad\x08\x08\x08good",
    "carriage return": "failed\rfinished",
    "form feed": "\x0c",
    "vertical tab": "\x0b",
    "shift out": "\x0e",
    "NUL": "\x00",
    "delete": "\x7f",
    "next line": "\x85",
    "right to left": "\u202egpj.exe",
    "isolate": "\u2066x\u2069",
    "mark": "\u200f",
    "line separator": "a\u2028b",
    "tags": "\U000e0041",
    "half a pair": "\udcff",
}
MARKUP = {
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "attribute": '"><svg onload=alert(1)>',
    "entity": "&lt;script&gt;",
    "script link": "[click](javascript:alert(1))",
    "data link": "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "picture": "![x](http://evil/x.png)",
    "reference": "[a]: javascript:alert(1)",
    "two brackets": "[a][b]",
    "autolink": "<javascript:alert(1)>",
    "cell": "a | b | c",
    "escaped cell": "a \\| b",
    "code": "`rm -rf`",
    "row": "a\n| evil | row |",
    "heading": "a\n# Evil",
    "template": "{{ 7 * 7 }}{% raw %}",
    "console markup": "[bold red]x[/] [link=javascript:alert(1)]y[/link]",
    "unbalanced console markup": "[/nothing]",
    "emoji": ":warning:",
    "mathtext": "a$b_{$",
    "underscore": "_hidden",
}
HOSTILE = COMMANDS | MARKUP
RECORDED = {case: name for case, name in HOSTILE.items() if case != "half a pair"}  # which no JSON file may hold
FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\ud800-\udfff\U000e0041]"
)


def each(cases):
    return pytest.mark.parametrize("name", cases.values(), ids=cases.keys())


def unescaped(sign, text):
    """Return whether a sign stands in Markdown without a backslash that takes its meaning away."""
    return re.search(rf"(?<!\\)(?:\\\\)*{re.escape(sign)}", text) is not None


@each(COMMANDS)
def test_what_commands_a_terminal_is_spelled_out(name):
    shown = printable(name)
    assert not FORBIDDEN.search(shown)
    shown.encode()
    assert printable(shown) == shown


@pytest.mark.parametrize("text", ["plain", "naïve Ω 日本語 👍🏽 \t|", "two\nlines", "مرحبا"])
def test_text_in_any_language_stays(text):
    assert printable(text) == text


@each(HOSTILE)
def test_a_line_of_a_command_commands_nothing(name, capsys):
    say(f"run {name}")
    assert not FORBIDDEN.search(capsys.readouterr().out)


@each(HOSTILE)
def test_a_table_on_a_terminal_shows_names_as_they_are(name, capsys):
    console = TableConsole(force_terminal=True, width=200, color_system="standard")
    table = Table(name, title=name)
    table.add_row(name)
    console.print(table)
    console.print(name)
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)  # the styles of the table itself
    assert not FORBIDDEN.search(out)
    for line in printable(name).splitlines():
        assert out.count(line.rstrip()) >= 3


@each(HOSTILE)
def test_markdown_makes_no_link_tag_cell_code_or_line_of_a_name(name):
    shown = markdown_text(name)
    assert not FORBIDDEN.search(shown)
    assert not re.search(r"[<>\n]", shown)
    assert not re.search(r"(?<!\\)\](?=[(\[:]|$)", shown)
    assert not any(unescaped(sign, shown) for sign in "`|")
    assert markdown_text(shown) == shown


@each(HOSTILE)
def test_a_markdown_table_keeps_its_cells(name):
    table = markdown_table(["a", "b"], [[name, markdown_code(name)]])
    lines = table.splitlines()
    assert len(lines) == 3
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", lines[2])) == 3


def test_markdown_that_is_made_here_is_not_escaped():
    assert markdown_table(["a"], [[Markdown("`x` [y](z)")]]).splitlines()[2] == "| `x` [y](z) |"


@pytest.fixture
def hostile_run(tmp_path):
    """(name) -> the verdict on a run whose name, growth, source, data and model are that name."""

    def make(name):
        lineage = SOURCE | {"source": name, "digest": name}
        config = {"data": {"name": name}, "model": {"name": name}, "schedule": {"name": name}}
        run = _write_run(tmp_path / "run", [5.0, 4.5], growth=name, source=lineage, name=name, config=config)
        (run / "growth.json").write_text(json.dumps({"preserved": name, "kl": name}))
        return judge([run], baseline=[_write_run(tmp_path / "noise", [8.0, 5.0])])

    return make


@each(RECORDED)
def test_no_name_of_a_run_gets_through_a_report(hostile_run, name, capsys):
    verdict = hostile_run(name)
    page, table = as_html(verdict, b""), as_markdown(verdict)
    for text in (page, table):
        assert not FORBIDDEN.search(text)
        assert not re.search(r"<(script>|img src=x|svg|javascript)", text)
    assert "javascript:" not in " ".join(re.findall(r"(?:href|src)\s*=\s*\S+", page))
    assert "49" not in page or "7 * 7" in page
    assert not re.search(r"(?<!\\)\]\((?:javascript|data|http)", table)
    console = TableConsole(width=200, file=None)
    console.print(*as_tables(verdict))
    assert not FORBIDDEN.search(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["\x1b[31m", "a$b_{$", "_hidden", "x\ny\rz", "\u202eabc"])
def test_a_report_is_drawn_of_any_name(hostile_run, name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert publish(hostile_run(name), tmp_path / "out")[2].stat().st_size > 0


@each(HOSTILE)
def test_a_label_is_in_the_legend_and_commands_nothing(name):
    panel = Figure().subplots()
    panel.plot([0, 1], label=figure_label(name))
    (text,) = panel.legend().get_texts()
    assert not FORBIDDEN.search(text.get_text())
    assert "\n" not in text.get_text()


@each(RECORDED)
def test_the_spec_of_a_wandb_report_commands_nothing(hostile_run, name):
    workspaces = pytest.importorskip("wandb_workspaces.reports.v2")
    from grow.report.wandb_report import build_report

    assert workspaces
    report = build_report(hostile_run(name), project="p", entity="", title="t")
    markdown, _, grid = report.blocks
    assert not FORBIDDEN.search(markdown.text + "".join(found.name for found in grid.runsets))


@each(HOSTILE)
def test_progress_shows_task_names_as_they_are(name, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    with EvaluationProgress() as watch:
        watch(name, 1, 2)
        watch(name, 2, 2)
    display = ProgressDisplay(3, shown=True)
    display.start(0)
    display.note(f"{name} at 5 tokens")
    display.stop()
    assert not FORBIDDEN.search(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", capsys.readouterr().out).replace("\r", ""))


def test_a_directory_with_a_hostile_name_commands_nothing_in_errors(tmp_path, monkeypatch, capsys):
    from grow.cli.command import entry_point
    from grow.report.runs import read_run
    from grow.report.settings import ReportConfig

    @entry_point("report", ReportConfig)
    def task(config):
        read_run(tmp_path / COMMANDS["title"])

    monkeypatch.setattr("sys.argv", ["report.py", "runs=a", "output=b"])
    with pytest.raises(SystemExit) as ended:
        task()
    assert ended.value.code == 77
    assert not FORBIDDEN.search(capsys.readouterr().err)
