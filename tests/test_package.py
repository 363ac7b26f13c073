"""Grow as it is installed: a wheel that runs from any directory, and the `grow` command."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from grow.cli.main import main, overview
from grow.common.places import CONFIG_DIR, command_file, command_files
from tests.training.tiny import command_line, make_shards

ROOT = CONFIG_DIR.parent


def test_the_command_lists_every_program_with_what_it_does(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["grow"])
    main()
    said = capsys.readouterr().out
    assert said.strip() == overview(command_files())
    programs = [ROOT / "train.py", ROOT / "eval.py", *ROOT.glob("scripts/*.py")]
    assert set(programs) == set(command_files().values())
    lines = dict(line.split(maxsplit=1) for line in said.splitlines() if line.startswith("  "))
    assert {path.stem for path in programs} == lines.keys()
    assert all(len(purpose) > 10 for purpose in lines.values())


def test_an_unknown_command_is_told_the_nearest_one(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["grow", "trian"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "trian: no such command. Did you mean train?" in capsys.readouterr().err


def test_a_command_that_is_not_there_is_named():
    assert command_file("train") == ROOT / "train.py"
    with pytest.raises(FileNotFoundError, match="nonsense"):
        command_file("nonsense")


def test_the_licence_is_named_where_tools_look_for_it():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0" and project["license-files"] == ["LICENSE"]
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert "license: Apache-2.0" in (ROOT / "CITATION.cff").read_text()


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the wheel's content, as pip would lay it; the wheel is built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = folder.glob("grow-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def _grow(installed: Path, directory: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run `grow` from another directory, where the checkout cannot be imported."""
    own = {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-P", "-c", "from grow.cli.main import main; main()"]
    environment = {**os.environ, **own}
    return subprocess.run([*program, *arguments], cwd=directory, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_wheel_holds_all_that_the_commands_read(installed):
    assert (installed / "grow" / "py.typed").is_file()
    assert (installed / "grow" / "report" / "report.html.j2").is_file()
    configs = installed / "grow" / "configs"
    assert _files(configs, "**/*.yaml") == _files(CONFIG_DIR, "**/*.yaml")
    assert _files(installed / "grow" / "commands", "*.py") == {Path(f"{name}.py") for name in command_files()}
    assert "grow = grow.cli.main:main" in next(installed.glob("*.dist-info/entry_points.txt")).read_text()


@pytest.mark.slow
def test_an_installed_grow_trains_from_another_directory_and_takes_a_users_own_configuration(installed, tmp_path):
    make_shards(_made(tmp_path / "shards"))
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "pocket.yaml").write_text("defaults: [tiny, _self_]\nname: pocket\n")
    overrides = [word for word in command_line(Path("shards"), Path("run")) if word != "model=tiny"]
    done = _grow(installed, tmp_path, "train", "--config-dir", "mine", "model=pocket", *overrides)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_an_installed_grow_lists_the_measured_presets_and_says_how_to_fetch_the_corpus(installed, tmp_path):
    listed = _grow(installed, tmp_path, "grow_checkpoint", "--list").stdout
    assert "| `isometric` |" in listed and "| 6.34 | 2.91 |" in listed
    missing = _grow(installed, tmp_path, "train", "model=tiny", "growth=none")
    assert missing.returncode == 77
    script = missing.stderr.strip().rpartition("sh ")[2]
    assert Path(script).is_file() and installed in Path(script).parents


def _files(directory: Path, pattern: str) -> set[Path]:
    return {path.relative_to(directory) for path in directory.glob(pattern)}


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
