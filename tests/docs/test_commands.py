"""Every command of the README and the pages works: run at tiny size, or composed where it needs hours or a cluster.

Commands that train, those of job scripts and configurations' headers too, are planned at the ranks that they name.
"""

import importlib.util
import os
import re
import tomllib
from itertools import product
from pathlib import Path
from unittest.mock import patch

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from grow.chains.links import links_of
from grow.cli.config import compose
from grow.cli.run_config import ChainConfig, EstimateConfig, RunConfig
from tests.docs.conftest import TINY, VOCABULARY
from tests.docs.page_commands import HEADED, JOB_SCRIPTS, PAGES, ROOT, Command, commands_in_comments, commands_of

COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands_of(page)))
IN_COMMENTS = list(dict.fromkeys(command for file in HEADED for command in commands_in_comments(file)))
RUNS = {"train.py": RunConfig, "estimate.py": EstimateConfig, "chain.py": ChainConfig}
"""Programs whose configuration is that of a run, which can be planned."""
TASKS = ("train", "grow", "averaging", "evaluate", "data", "cluster", "measure", "python")
OUT_OF_REACH = re.compile(
    r"olmo_|pythia|facebook/|hub=|allenai|EleutherAI|epoch_|logger=wandb$|launcher|chain|presets|fetch_| -m "
)
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


def _can_be_planned(command: Command) -> bool:
    """Return whether a command starts runs out of this repository's configurations."""
    return command.program in RUNS and {"--help", "--cfg", "--config-dir"}.isdisjoint(command.arguments)


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
    tiny = [word for word in TINY if not (word.startswith("model.") and "model=scaled" in command.text)]
    return [*arguments, *tiny, *averaged, *every]


@pytest.mark.slow
@pytest.mark.parametrize("command", _named([command for command in COMMANDS if _runs_here(command)]))
def test_a_command_of_a_page_runs_on_tiny_models(command, workplace, run_program):
    arguments = _tiny(command)
    made = {word.partition("=")[2] for word in arguments if word.startswith(("run_dir=", "output="))}
    processes = next((int(word.partition("=")[2]) for word in command.words if word.startswith("--nproc")), 1)
    assert run_program(command.program.removesuffix(".py"), arguments, workplace(made), processes)


def _runs_of(overrides: list[str]) -> list[list[str]]:
    """Return the overrides of every run of a command line, as a sweep would make them."""
    overrides = [word for word in overrides if word != "-m"]
    parsed = OverridesParser.create().parse_overrides(overrides)
    choices = [
        [f"{each.key_or_group}={value}" for value in each.sweep_string_iterator()]
        if each.is_sweep_override()
        else [each.input_line]
        for each in parsed
    ]
    return [list(run) for run in product(*choices)]


def _composed(config_name: str, overrides: list[str]) -> int:
    """Compose every run of a command line; return how many there are."""
    runs = _runs_of(overrides)
    for run in runs:
        assert compose(run, config_name, object)
    return len(runs)


def _by_torchrun(processes: int) -> dict[str, str]:
    """Return the variables that torchrun sets for the last of some ranks on a machine; none where it is not used."""
    last, all_of_them = str(processes - 1), str(processes)
    ranks = {"RANK": last, "LOCAL_RANK": last, "WORLD_SIZE": all_of_them, "LOCAL_WORLD_SIZE": all_of_them}
    return ranks if processes > 1 else {}


def _by_srun(processes: int) -> dict[str, str]:
    """Return the variables that srun sets for the last of some tasks on a node."""
    last, all_of_them = str(processes - 1), str(processes)
    step = {"SLURM_STEP_NUM_TASKS": all_of_them, "SLURM_STEP_TASKS_PER_NODE": all_of_them}
    return {**step, "SLURM_JOB_ID": "1", "SLURM_PROCID": last, "SLURM_LOCALID": last, "SLURM_NODEID": "0"}


def _planned(program: str, overrides: list[str], started: dict[str, str]) -> None:
    """Plan every run of a command line, and every link of a chain, as the process with these variables would."""
    for run in _runs_of(overrides):
        config = compose(run, program.removesuffix(".py"), RUNS[program])
        links = links_of(config, run, compose) if isinstance(config, ChainConfig) else []
        with patch.dict(os.environ, started):
            for each in [link.run for link in links] or [config]:
                assert each.plan().batch.tokens == each.trainer.tokens_per_step


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    _named([each for each in COMMANDS if _is_hydra(each) and not _runs_here(each)])
    + _named([each for each in IN_COMMENTS if _is_hydra(each) and "--cfg" not in each.words]),
)
def test_a_command_that_needs_a_network_or_hours_composes(command):
    assert _composed(command.program.removesuffix(".py"), command.arguments)


@pytest.mark.slow
@pytest.mark.parametrize("command", _named([each for each in [*COMMANDS, *IN_COMMENTS] if _can_be_planned(each)]))
def test_a_command_that_trains_is_planned_at_its_real_size_and_number_of_ranks(command):
    _planned(command.program, command.arguments, _by_torchrun(command.processes))


@pytest.mark.parametrize("command", _named([each for each in [*COMMANDS, *IN_COMMENTS] if each.words[0] == "sbatch"]))
def test_a_job_script_exists_and_its_runs_are_planned_at_the_number_of_its_tasks(command):
    _, script, *overrides = command.words
    assert (ROOT / script).is_file()
    if script.endswith("eval.sbatch"):
        assert _composed("eval", [f"checkpoint={overrides[0]}", *overrides[1:]])
    elif script.endswith("prepare.sbatch"):
        overrides = overrides or ["input=[texts]", "output=shards", "tokenizer=directory"]
        assert _composed("prepare_data", [*overrides, "part=7/8", "workers=16"])
    else:
        lines = re.findall(r'^    "(.+)"$', (ROOT / script).read_text(), re.M)
        assert bool(lines) == script.endswith("sweep.sbatch") and command.processes == 8
        for line in lines or [""]:
            _planned("train.py", [*overrides, *line.split()], _by_srun(command.processes))


def test_the_headline_is_among_the_commands_and_every_job_script_names_one():
    started = {(each.program, each.processes) for each in COMMANDS if "model=olmo_2.9b" in each.words}
    assert {("train.py", 1), ("train.py", 8), ("estimate.py", 64)} <= started
    assert {path.name for path in JOB_SCRIPTS} <= {command.page for command in IN_COMMENTS}


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
            if "--" in words:
                _planned("train.py", words[words.index("--") + 1 :], _by_torchrun(command.processes))
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
