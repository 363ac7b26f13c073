"""Every command of the README and the pages works: run at tiny size, or composed where it needs hours or a cluster."""

import importlib.util
import os
import re
import tomllib
from itertools import product
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from grow.cli.config import compose
from tests.docs.conftest import TINY, VOCABULARY
from tests.docs.page_commands import PAGES, ROOT, Command, commands_of

COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands_of(page)))
TASKS = ("train", "grow", "averaging", "evaluate", "data", "cluster", "measure", "python")
OUT_OF_REACH = re.compile(r"olmo_|pythia|allenai|EleutherAI|epoch_|logger=wandb$|launcher|chain|presets|fetch_| -m ")
"""What no test has (models of the hub, an account, a cluster, a network), and what has tests of its own."""
PROGRAMS = {path.name for path in [*ROOT.glob("*.py"), *ROOT.glob("scripts/*.py"), *ROOT.glob("studies/*.py")]}
SMALLER = {
    "sweep_averages.py": ["k=[2]", "every_steps=[5]", "val_tokens=160"],
    "average_checkpoints.py": ["averaging.k=2"],
    "analyze.py": ["layers=[0]"],
}


def _is_hydra(command: Command) -> bool:
    return command.program in PROGRAMS and 'entry_point("' in _file(command).read_text()


def _file(command: Command) -> Path:
    return next(path for path in map(ROOT.joinpath, command.words) if path.name == command.program)


def _runs_here(command: Command) -> bool:
    return _is_hydra(command) and not OUT_OF_REACH.search(command.text)


def _named(commands: list[Command]) -> list:
    return [pytest.param(command, id=f"{command.page}-{command.text[:90]}") for command in commands]


def _tiny(command: Command) -> list[str]:
    """Return a command's arguments with steps, windows and intervals that a tiny run has."""
    arguments = [re.sub(r"step-\d+", "step-00000010", word) for word in command.arguments]
    arguments = [word.replace("500_000,504_096", "640,704") for word in arguments]
    arguments = [re.sub(r"vocab_size=\d+", f"vocab_size={VOCABULARY}", word) for word in arguments]
    if command.program != "train.py" or not {"--help", "--cfg"}.isdisjoint(arguments):
        named = command.program == "grow_checkpoint.py" and "model=" in command.text
        return [*arguments, *SMALLER.get(command.program, []), *[f"model.vocab_size={VOCABULARY}"] * named]
    averaged = ["averaging.k=2", "averaging.every_steps=5"] if "averaging=" in command.text else []
    every = ["evaluation.every_tokens=640"] if "evaluation=" in command.text else []
    return [*arguments, *TINY, *averaged, *every]


@pytest.mark.slow
@pytest.mark.parametrize("command", _named([command for command in COMMANDS if _runs_here(command)]))
def test_a_command_of_a_page_runs_on_tiny_models(command, workplace, run_program):
    arguments = _tiny(command)
    made = {word.partition("=")[2] for word in arguments if word.startswith(("run_dir=", "output="))}
    processes = next((int(word.partition("=")[2]) for word in command.words if word.startswith("--nproc")), 1)
    assert run_program(command.program.removesuffix(".py"), arguments, workplace(made), processes)


def _composed(config_name: str, overrides: list[str]) -> int:
    """Compose every run of a command line, as a sweep would; return how many there are."""
    overrides = [word for word in overrides if word != "-m"]
    parsed = OverridesParser.create().parse_overrides(overrides)
    choices = [
        [f"{each.key_or_group}={value}" for value in each.sweep_string_iterator()]
        if each.is_sweep_override()
        else [each.input_line]
        for each in parsed
    ]
    runs = [list(run) for run in product(*choices)]
    for run in runs:
        assert compose(run, config_name, object)
    return len(runs)


@pytest.mark.parametrize("command", _named([each for each in COMMANDS if _is_hydra(each) and not _runs_here(each)]))
def test_a_command_that_needs_a_network_or_hours_composes(command):
    assert _composed(command.program.removesuffix(".py"), command.arguments)


@pytest.mark.parametrize("command", _named([each for each in COMMANDS if each.words[0] == "sbatch"]))
def test_a_job_script_of_a_page_exists_and_its_overrides_compose(command):
    _, script, *overrides = command.words
    assert (ROOT / script).is_file()
    if script.endswith("eval.sbatch"):
        assert _composed("eval", [f"checkpoint={overrides[0]}", *overrides[1:]])
    else:
        assert _composed("train", overrides)


def _has_its_flags(program: Path, words: list[str]) -> None:
    before_overrides = words[: words.index("--")] if "--" in words else words
    for flag in (word for word in before_overrides if word.startswith("--")):
        assert f'"{flag}"' in program.read_text(), f"{program.name} has no {flag}"


@pytest.mark.parametrize("command", _named([each for each in COMMANDS if not _is_hydra(each)]))
def test_every_other_command_of_a_page_names_what_there_is(command):
    words = list(command.words)
    match words[0]:
        case "sbatch":
            return  # tested above
        case "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
            assert words[1] in targets
        case "source":
            assert words[1] == ".venv/bin/activate"
        case "pip":
            extra = re.fullmatch(r"\.\[(\w+)\]", words[2])
            assert extra is None or extra[1] in _project()["optional-dependencies"]
        case "python" if words[1:3] == ["-m", "pytest"]:
            assert all((ROOT / word).exists() for word in words if "/" in word)
        case "python" if words[1] == "-m":
            module = importlib.util.find_spec(words[2])
            assert module is not None
            _has_its_flags(Path(str(module.origin)), words)
            assert "--" not in words or _composed("train", words[words.index("--") + 1 :])
        case "python":
            _has_its_flags(ROOT / words[1], words)
        case script:
            assert os.access(ROOT / script, os.X_OK)
            names = [variable.partition("=")[0] for variable in command.variables]
            assert all(name in (ROOT / script).read_text() for name in names)


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("task", TASKS)
def test_a_page_starts_with_a_command_that_works_on_a_tiny_model(task):
    first = next(each for each in commands_of(ROOT / "docs" / f"{task}.md") if each.words[0] != "make")
    assert _runs_here(first)


def test_the_readme_is_one_page_and_every_file_it_links_to_is_there():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    linked = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")}
    assert linked and all((ROOT / link).exists() for link in linked)
    named = {word.rstrip("/") for word in re.findall(r"^  ?(?:  )?([a-z_]+/)", text, re.M)}
    assert all((ROOT / name).is_dir() or (ROOT / "grow" / name).is_dir() for name in named)


@pytest.mark.slow
def test_the_pages_build_as_a_site_without_a_broken_link(tmp_path, monkeypatch):
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    monkeypatch.chdir(ROOT)
    try:
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    except Abort as error:
        pytest.fail(f"mkdocs build --strict: {error}")
    page = (tmp_path / "site" / "python.html").read_text()
    assert all(f'id="grow.api.{name}"' in page for name in ("grow_checkpoint", "average_checkpoints", "speedup"))
    assert "fonts.googleapis.com" not in page
