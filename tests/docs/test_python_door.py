"""The functions of `import grow`: their examples run, and importing them costs nothing."""

import doctest
import subprocess
import sys

import pytest

import grow
from grow import api
from grow.common.errors import CheckpointError, ConfigError

DOOR = sorted(grow.__all__)


def test_the_door_is_the_four_functions_and_each_shows_an_example():
    assert DOOR == ["average_checkpoints", "grow_checkpoint", "load_run", "speedup"]
    assert all(">>> " in (getattr(grow, name).__doc__ or "") for name in DOOR)


@pytest.mark.slow
@pytest.mark.parametrize("name", DOOR)
def test_the_example_of_a_function_is_true(name, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").symlink_to(world / "outputs")
    examples = doctest.DocTestFinder(recurse=False).find(getattr(api, name), name, globs=vars(api).copy())
    assert sum(len(example.examples) for example in examples) >= 2
    for example in examples:
        assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example).failed == 0


def test_importing_grow_imports_no_library():
    heavy = "torch numpy pandas hydra omegaconf transformers lightning matplotlib"
    probe = f"import grow, sys; print([name for name in '{heavy}'.split() if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_mistake_raises_the_error_that_the_command_would_print(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean hyperclone"):
        grow.grow_checkpoint("somewhere", tmp_path / "grown", "hyperclon")
    with pytest.raises(ConfigError, match="snr"):
        grow.grow_checkpoint("somewhere", tmp_path / "grown", snr=3)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        grow.load_run(tmp_path)


def test_paths_with_blanks_and_commas_arrive_whole(tmp_path):
    with pytest.raises(CheckpointError, match=r"no, such place: no such directory"):
        grow.grow_checkpoint("./no, such place", tmp_path / "grown")
