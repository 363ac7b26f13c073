"""studies/measure_presets.sh: the runs it starts, recorded by a stand-in for python."""

import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from grow.cli.config import compose
from grow.common.places import CONFIG_DIR
from grow.growth.gallery import presets

STAND_IN = """#!/usr/bin/env bash
if [ "$1" = studies/report_presets.py ]; then
    if [[ $* == *best=* ]]; then echo layers_2x g_stack; fi
    exit
fi
for word; do if [[ $word == run_dir=* ]]; then mkdir -p "${word#*=}/model"; fi; done
shift
echo "$@" >>"$NOTES"
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The overrides of each run that the script makes, and of each that it makes when it is called again."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "python").write_text(STAND_IN)
    (folder / "python").chmod(0o755)

    def measure():
        (folder / "notes").write_text("")
        path = {"PATH": f"{folder}:{os.environ['PATH']}", "OUT": str(folder / "runs"), "NOTES": str(folder / "notes")}
        script = CONFIG_DIR.parent / "studies" / "measure_presets.sh"
        subprocess.run(["bash", str(script)], env=os.environ | path, check=True, capture_output=True)
        return [dict(word.split("=", 1) for word in line.split()) for line in (folder / "notes").open()]

    first = measure()
    return first, measure()


def place(overrides):
    """Return the shape and the seed of a run."""
    return Path(overrides["run_dir"]).parent.name, Path(overrides["run_dir"]).name


def test_every_preset_is_measured_at_one_learning_rate(measured):
    targets = [run for run in measured[0] if place(run)[0] != "sources"]
    assert {run.get("growth") for run in targets} == {*(each.name for each in presets(CONFIG_DIR / "growth")), None}
    assert {run["optimizer.lr"] for run in measured[0]} == {"4e-3"}


def test_train_accepts_every_shape(measured):
    one_each = {place(run)[0]: run for run in measured[0]}
    for run in one_each.values():
        assert compose([f"{key}={value}" for key, value in run.items()]).trainer.max_tokens > 0


def test_every_shape_has_three_baselines_and_the_best_presets_have_three_seeds(measured):
    runs = Counter((place(run)[0], run.get("growth")) for run in measured[0])
    shapes = {shape for shape, _ in runs} - {"source", "sources"}
    assert {shape: runs[shape, None] for shape in shapes} == dict.fromkeys(shapes, 3)
    assert runs["source", "identity"] == runs["layers_2x", "g_stack"] == 3
    assert runs["layers_2x", "join_above"] == 1


def test_a_finished_run_is_not_repeated(measured):
    assert measured[0]
    assert measured[1] == []
