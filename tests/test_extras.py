"""What Grow imports is declared, and what only some runs need is an extra, whose lack is said before work starts."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from grow.cli.config import compose
from grow.common.errors import ConfigError
from grow.common.extras import EXTRAS, require
from tests.training.tiny import command_line, make_shards

ROOT = Path(__file__).parents[1]
SOURCES = [*ROOT.glob("grow/**/*.py"), *ROOT.glob("scripts/*.py"), ROOT / "train.py", ROOT / "eval.py"]
DISTRIBUTIONS = {"hydra": "hydra-core", "yaml": "pyyaml"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def distribution(requirement):
    """Return the name before any version, extra or mark, spelled in one way."""
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def third_party(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).split(".")[0]


IMPORTED = {name for path in SOURCES for name in third_party(path)} - {*sys.stdlib_module_names, "grow"}
REQUIRED = {distribution(line) for line in PROJECT["dependencies"]}
OPTIONAL = {extra: {distribution(line) for line in lines} for extra, lines in PROJECT["optional-dependencies"].items()}


@pytest.mark.parametrize("package", sorted(IMPORTED))
def test_what_is_imported_is_declared(package):
    found = distribution(DISTRIBUTIONS.get(package, package))
    assert (found in REQUIRED) != (package in EXTRAS)
    assert package not in EXTRAS or found in OPTIONAL[EXTRAS[package]]


def test_what_is_declared_is_pinned():
    pinned = {distribution(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] != "#"}
    assert REQUIRED.union(*OPTIONAL.values()) - {"grow"} <= pinned


def test_developers_have_every_extra():
    (line,) = [line for line in PROJECT["optional-dependencies"]["dev"] if line.startswith("grow[")]
    assert set(re.findall(r"\w+", line)) - {"grow"} == set(OPTIONAL) - {"dev"}


@pytest.fixture
def without(monkeypatch):
    return lambda package: monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize("package", EXTRAS)
def test_a_missing_package_is_named_with_the_line_that_installs_it(without, package):
    require(package, "this")
    without(package)
    with pytest.raises(
        ConfigError, match=rf"this: the package {package} is not installed.*pip install .*\[{EXTRAS[package]}\]"
    ):
        require(package, "this")


def asked(tmp_path, *more):
    shards = make_shards(tmp_path)
    return compose(command_line(shards, tmp_path / "run", *more))


def test_zero_asks_for_deepspeed_when_the_run_is_planned(without, tmp_path, monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    run = asked(tmp_path, "strategy=zero2")
    run.plan()
    without("deepspeed")
    with pytest.raises(ConfigError, match=r"strategy=zero2: the package deepspeed"):
        run.plan()


@pytest.mark.parametrize(
    ("package", "override", "message"),
    [
        ("lm_eval", "evaluation.every_tokens=128", r"evaluation\.every_tokens=128: the package lm_eval"),
        ("wandb", "logger=wandb", r"logger\.views=\[wandb\]: the package wandb"),
        ("tensorboard", "logger=tensorboard", r"logger\.views=\[tensorboard\]: the package tensorboard"),
    ],
)
def test_a_run_asks_for_what_it_needs_before_it_trains(without, tmp_path, package, override, message):
    import train

    run = asked(tmp_path, override, "evaluation=heldout")
    without(package)
    with pytest.raises(ConfigError, match=message):
        train.main.__wrapped__(run)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


BARE = """
import runpy, sys
sys.modules.update(dict.fromkeys({packages}))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_training_growing_and_averaging_need_no_extra(tmp_path):
    def run(*arguments):
        line = [sys.executable, "-c", BARE.format(packages=list(EXTRAS)), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr

    trained, checkpoints = tmp_path / "run", tmp_path / "run" / "checkpoints"
    run("train.py", *command_line(make_shards(tmp_path), trained, "trainer.max_tokens=768"))
    run(
        "scripts/grow_checkpoint.py",
        f"source={trained}",
        f"output={tmp_path / 'grown'}",
        "growth=hyperclone",
        "scale.embed=2",
    )
    names = ",".join(str(path) for path in sorted(checkpoints.glob("step-*")))
    run(
        "scripts/average_checkpoints.py",
        f"checkpoints=[{names}]",
        "averaging=lawa",
        "averaging.k=2",
        f"output={tmp_path / 'average'}",
    )
