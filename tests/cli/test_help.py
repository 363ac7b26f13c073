"""--help: what a program is, every choice a user can make and no other, each key of its own, at once."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from grow.cli.config import COMMANDS, GROUPS
from grow.cli.help_page import help_page
from grow.cli.spelling import ALIASES
from grow.common.places import CONFIG_DIR

ROOT = Path(__file__).parents[2]
NAMES = {name if name != "run" else "train": schema for name, schema in COMMANDS.items()}
COMMAND = """
from grow.cli.command import entry_point
from grow.cli.config import ReportConfig

@entry_point("report", ReportConfig)
def main(config):
    import torch, transformers
    print("{}")

main()
"""


def page(name):
    return help_page(f"{name}.py", "Does something.\n\npython it.py\n", name, NAMES[name])


@pytest.mark.parametrize("name", NAMES)
def test_help_opens_with_what_the_program_is_and_names_every_key_of_its_own(name):
    assert page(name).startswith(f"{name}.py: Does something.\n\npython it.py\n\n")
    assert "_schema" not in page(name)
    assert "hydra/" not in page(name)
    shown = {key: alias for alias, key in ALIASES.get(name, {}).items()}
    named = {field.name for field in fields(NAMES[name])} - GROUPS.keys() - {"scale", "estimate"}
    assert [key for key in named if f"\n  {shown.get(key, key)}=" not in page(name)] == []


@pytest.mark.parametrize("name", ["train", "estimate", "chain"])
def test_help_lists_every_choice_of_every_group_and_its_default(name):
    words = page(name).replace(",", " ").split()
    hidden = ("merging", *(("growth", "trainable") if name == "chain" else ("chain",)))
    for folder in (path for path in CONFIG_DIR.iterdir() if path.is_dir() and path.name != "hydra"):
        offered = any(word.startswith(f"{folder.name}=") for word in words)
        assert offered == (folder.name not in hidden)
        choices = [str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")]
        assert not offered or set(choices) <= set(words)
    assert {"model=tiny", "trainer=default", "resume=exact", "run_dir=null"} <= set(words)


def test_help_knows_the_alias_of_a_key_and_the_keys_below_one():
    assert "\n  checkpoint=" in page("eval") and "\n  checkpoints=" not in page("eval")
    assert "\n  estimate.gpu=H100 " in page("estimate")
    assert "\n  output=OUTPUT" in page("average_checkpoints")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_a_program_answers_with_its_own_docstring(flag):
    done = subprocess.run([sys.executable, ROOT / "train.py", "seed=1", flag], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("train.py: Pretrain a language model")
    assert done.stdout.count("\npython train.py ") == 6


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "command: loading torch and the libraries built on it ...\n"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, ""),
    ],
)
def test_the_first_rank_says_once_what_it_loads_and_leaves_the_output_alone(tmp_path, environment, says):
    (tmp_path / "command.py").write_text(COMMAND)
    for library in ("torch", "transformers"):
        (tmp_path / f"{library}.py").write_text("print('loaded')")
    done = subprocess.run(
        [sys.executable, tmp_path / "command.py", "runs=[a]", "output=b"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (done.stdout, done.stderr) == ("loaded\nloaded\n{}\n", says)
