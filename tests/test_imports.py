"""A command imports what it uses: the heavy libraries that each one may have imported once its work is done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.tiny import TINY, make_shards

pytestmark = pytest.mark.slow  # each command is a fresh process, whose imports are what is tested

ROOT = Path(__file__).parents[1]
HEAVY = (
    *("torch", "transformers", "lightning", "deepspeed", "torchmetrics", "scipy", "sklearn", "datasets", "lm_eval"),
    *("wandb", "matplotlib"),
)
LIGHTNING = ("lightning", "torchmetrics", "matplotlib")  # Lightning imports torchmetrics, and that matplotlib and scipy
MODEL_CLASSES = ("torch", "transformers", "scipy")  # transformers' losses import scipy.optimize with every model class
PROBE = """
import json, os, runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print("IMPORTED", json.dumps([name for name in {heavy} if name in sys.modules]))
"""


def imported(command: str, *arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY), command, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.rpartition("IMPORTED ")[2]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, set[str]]:
    """A finished tiny run with two checkpoints, and what training it imported."""
    directory = tmp_path_factory.mktemp("trained")
    shards = directory / "shards"
    shards.mkdir()
    make_shards(shards)
    sizes = ("trainer.max_tokens=256", "trainer.val_every_tokens=256", "checkpoint.every_tokens=128")
    run = directory / "run"
    found = imported(
        "train.py", *TINY, *sizes, "checkpoint.keep_last=2", f"data.path={shards}", f"run_dir={run}", "strategy=single"
    )
    return run, found


def test_training_imports_lightning_and_the_model_classes_but_no_evaluation_and_no_views(trained):
    _, found = trained
    # transformers' save_pretrained asks accelerate whether the model is DeepSpeed's, which imports DeepSpeed.
    assert found <= {*MODEL_CLASSES, *LIGHTNING, "deepspeed"}


def test_averaging_checkpoints_imports_torch_alone(trained, tmp_path):
    run, _ = trained
    arguments = (f"checkpoints=[{run}]", "averaging=lawa", "averaging.k=2", f"output={tmp_path / 'average'}")
    assert imported("scripts/average_checkpoints.py", *arguments) <= {"torch"}


def test_analyzing_imports_configurations_and_no_model_classes(trained):
    run, _ = trained
    assert imported("scripts/analyze.py", f"run={run}") <= {"torch", "transformers"}


def test_sweeping_averages_imports_model_classes_and_the_figure(trained, tmp_path):
    run, _ = trained
    arguments = (f"run={run}", f"output={tmp_path}", "k=[2]", "every_steps=[1]", "val_tokens=160")
    assert imported("scripts/sweep_averages.py", *arguments) <= {*MODEL_CLASSES, "matplotlib"}


def test_exporting_imports_model_classes_alone(trained, tmp_path):
    run, _ = trained
    checkpoint = sorted(run.glob("checkpoints/step-*"))[0]
    arguments = (f"source={checkpoint}", f"output={tmp_path / 'exported'}")
    assert imported("scripts/export.py", *arguments) <= set(MODEL_CLASSES)


def test_growing_imports_model_classes_alone(trained, tmp_path):
    run, _ = trained
    arguments = (f"source={run}", f"output={tmp_path / 'big'}", "growth=hyperclone", "scale.embed=2", "scale.heads=2")
    assert imported("scripts/grow_checkpoint.py", *arguments, "scale.ffn=2") <= set(MODEL_CLASSES)


def test_estimating_imports_model_classes_alone():
    assert imported("scripts/estimate.py", "model=tiny") <= set(MODEL_CLASSES)
