"""A folder in which a page's commands find what they name: data, items, and the runs that the pages made before."""

import os
import runpy
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from benchmarks.forks import fork_ranks, import_everything, wait
from grow.common.places import command_file
from tests.data.conftest import make_sentences, prepare_files_small, write_json_lines
from tests.evaluation.made import make_items

VOCABULARY = 300
TINY = [
    *(f"model.vocab_size={VOCABULARY}", "data.sequence_length=16", "trainer.accelerator=cpu", "trainer.micro_batch=2"),
    *("trainer.tokens_per_step=64", "trainer.max_tokens=1280", "trainer.val_every_tokens=640"),
    *("trainer.val_tokens=160", "checkpoint.every_tokens=320", "checkpoint.keep_last=4"),
]
"""Overrides that make a run of the tiny models one of seconds: 20 steps, checkpoints at steps 5, 10, 15 and 20."""
RUNS = {
    "source": ["model=tiny"],
    "noise": ["model=tiny_2x"],
    "grown": ["model=tiny_2x", "growth=hyperclone_noisy", "growth.source=outputs/source"],
    "continued": ["model=tiny", "growth=identity", "growth.source=outputs/source"],
    "averaged": ["model=tiny", "averaging=lawa", "averaging.k=2", "averaging.every_steps=5"],
}


@pytest.fixture(scope="session")
def run_program(tmp_path_factory) -> Callable[..., str]:
    """(name, arguments, directory, processes) -> what the program printed. Forked from this process; must succeed."""
    import_everything()
    logs = tmp_path_factory.mktemp("logs")

    def run(name: str, arguments: list[str], directory: Path, processes: int = 1) -> str:
        log = logs / f"{len(list(logs.iterdir()))}.txt"
        codes = wait(fork_ranks(processes, partial(_program, command_file(name), arguments, directory), log))
        assert set(codes) == {0}, f"{name} {' '.join(arguments)}\n{log.read_text()[-4000:]}"
        return log.read_text()

    return run


def _program(path: Path, arguments: list[str], directory: Path) -> int:
    """Run a program in this process as Python would, and return its exit code."""
    os.chdir(directory)
    sys.argv = [str(path), *arguments]
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


@pytest.fixture(scope="session")
def world(tmp_path_factory, run_program) -> Path:
    """The folder in which the pages' commands run, after the runs that they name were trained."""
    world = tmp_path_factory.mktemp("world")
    (world / "texts").mkdir()
    texts = [
        write_json_lines(world / "texts" / f"{source}.jsonl", make_sentences(200, seed=number), source)
        for number, source in enumerate(("wikipedia", "shakespeare"))
    ]
    prepare_files_small(world / "data" / "english", *texts, vocab_size=VOCABULARY)
    (world / "data" / "mine").symlink_to(world / "data" / "english")
    (world / "data" / "debian-docs").mkdir()
    (world / "data" / "debian-docs" / "texts").symlink_to(world / "texts")
    make_items(world / "data" / "eval", count=3)
    (world / "my_configs" / "model").mkdir(parents=True)
    (world / "my_configs" / "model" / "pocket.yaml").write_text("defaults: [tiny, _self_]\nname: pocket\nlayers: 2\n")
    for name, overrides in RUNS.items():
        run_program("train", [*overrides, *TINY, f"run_dir=outputs/{name}"], world)
    (world / "my_model").symlink_to(world / "outputs" / "source" / "model")
    return world


@pytest.fixture
def workplace(world, tmp_path) -> Callable[[set[str]], Path]:
    """(paths that a command makes) -> a folder of its own with all else of the world in it."""

    def make(made: set[str]) -> Path:
        for path in [*world.iterdir(), *world.glob("data/*"), *world.glob("outputs/*")]:
            name = path.relative_to(world)
            if str(name) in ("data", "outputs"):
                (tmp_path / name).mkdir()
            elif str(name) not in made:
                (tmp_path / name).symlink_to(path)
        return tmp_path

    return make
