"""Every Python program of scripts/, benchmarks/ and studies/ starts: it helps, and it refuses what it does not know."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = [
    str(path.relative_to(ROOT))
    for folder in ("scripts", "benchmarks", "studies")
    for path in sorted((ROOT / folder).glob("**/*.py"))
    if "__main__" in path.read_text()
]
HELPED = [[program, "--help"] for program in PROGRAMS] + [
    ["-m", program.removesuffix(".py").replace("/", "."), "--help"]
    for program in PROGRAMS
    if not program.startswith("scripts/")
]
CONFIGURED = [program for program in PROGRAMS if "@entry_point(" in (ROOT / program).read_text()]
REFUSED = [[program, "--no-such-option"] for program in PROGRAMS] + [
    [program, "no_such_key=1"] for program in CONFIGURED
]


@pytest.fixture(scope="module")
def ended():
    """(command line) -> what the command did; all are started in one process."""
    commands = [*HELPED, *REFUSED]
    starter = [sys.executable, str(Path(__file__).with_name("forked_commands.py")), json.dumps(commands)]
    done = subprocess.run(starter, cwd=ROOT, capture_output=True, text=True, check=True)
    found = dict(zip(map(tuple, commands), json.loads(done.stdout), strict=True))
    return lambda command: found[tuple(command)]


@pytest.mark.parametrize("command", HELPED, ids=" ".join)
def test_help_answers_without_heavy_imports(ended, command):
    done = ended(command)
    assert (done["code"], done["err"], done["heavy"]) == (0, "", [])
    assert len(done["out"].splitlines()) > 1


@pytest.mark.parametrize("command", REFUSED, ids=" ".join)
def test_what_a_command_does_not_know_is_one_paragraph_and_exit_code_2(ended, command):
    done = ended(command)
    assert (done["code"], done["out"], done["heavy"]) == (2, "", [])
    assert done["err"].strip() and "\n\n" not in done["err"].strip()
    assert "Traceback" not in done["err"]


def test_scripts_holds_commands_only_and_each_is_a_page():
    scripts = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "scripts").glob("*.py")}
    assert scripts.keys() <= {*PROGRAMS}
    assert {name: len(text.splitlines()) for name, text in scripts.items() if len(text.splitlines()) > 60} == {}


@pytest.mark.parametrize("folder", ["benchmarks", "studies"])
def test_no_program_imports_another(folder):
    modules = {program.removesuffix(".py").replace("/", ".") for program in PROGRAMS}
    for path in (ROOT / folder).glob("*.py"):
        imported = {line.split()[1] for line in path.read_text().splitlines() if line.strip().startswith("from ")}
        assert not imported & modules, path
