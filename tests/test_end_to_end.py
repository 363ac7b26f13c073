"""The main job as a user types it: prepare, train a source, grow it, train both baselines, report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.conftest import make_sentences, write_json_lines
from tests.warm_python import warm_python

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SHORT = [
    *("data=shards", "data.sequence_length=16", "trainer.micro_batch=4", "trainer.tokens_per_step=64"),
    *("trainer.max_tokens=1280", "trainer.val_every_tokens=640", "trainer.val_tokens=160", "trainer.accelerator=cpu"),
    *("model.vocab_size=300", "model.layers=2"),
]


def run(script: str, *arguments: str, python: str = sys.executable) -> str:
    """Start a script; each is started once as a user starts it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, str(ROOT / script), *arguments], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_main_job_ends_with_a_speed_up_table_a_figure_and_a_page(tmp_path):
    texts = write_json_lines(tmp_path / "texts.jsonl", make_sentences(300, seed=0))
    run("scripts/prepare_data.py", f"input=[{texts}]", f"output={tmp_path / 'data'}", "vocab_size=300")
    short = [*SHORT, f"data.path={tmp_path / 'data'}"]
    run("train.py", "model=tiny", *short, f"run_dir={tmp_path / 'source'}")
    run("train.py", "model=tiny_2x", *short, f"run_dir={tmp_path / 'noise'}", python=warm_python())
    grown = run(
        "train.py",
        *("model=tiny_2x", "growth=hyperclone_noisy", f"growth.source={tmp_path / 'source'}"),
        *(*short, f"run_dir={tmp_path / 'grown'}"),
        python=warm_python(),
    )
    assert "grown by hyperclone_noisy" in grown
    continued = ("model=tiny", "growth=identity", f"growth.source={tmp_path / 'source'}")
    run("train.py", *continued, *short, f"run_dir={tmp_path / 'continued'}", python=warm_python())
    table = run(
        "scripts/report.py",
        *(f"runs=[{tmp_path / 'grown'}]", f"baseline={tmp_path / 'noise'}", f"continued={tmp_path / 'continued'}"),
        f"output={tmp_path / 'report'}",
    )
    assert "hyperclone_noisy" in table
    assert {"speedup.png", "report.html", "speedup.md", "speedup.json"} <= {
        path.name for path in (tmp_path / "report").iterdir()
    }
    source_end = _val_losses(tmp_path / "source")[-1]
    assert _val_losses(tmp_path / "grown")[0] == pytest.approx(source_end, abs=1e-4)
    assert _val_losses(tmp_path / "continued")[0] == pytest.approx(source_end, abs=1e-4)
    assert json.loads((tmp_path / "grown" / "growth.json").read_text())["preserved"] is True


def test_a_run_can_be_grown_by_hand_and_generates_text_with_stock_classes(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = write_json_lines(tmp_path / "texts.jsonl", make_sentences(300, seed=0))
    prepared = (f"input=[{texts}]", f"output={tmp_path / 'data'}", "vocab_size=300")
    run("scripts/prepare_data.py", *prepared, python=warm_python())
    data = f"data.path={tmp_path / 'data'}"
    run("train.py", "model=tiny", *SHORT, data, f"run_dir={tmp_path / 'run'}", python=warm_python())
    said = run(
        "scripts/grow_checkpoint.py",
        *(f"source={tmp_path / 'run'}", f"output={tmp_path / 'grown'}", "growth=hyperclone_diagonal_noisy"),
        *("scale.embed=3", "scale.heads=3"),
    )
    assert "preserved  yes" in said
    lineage = json.loads((tmp_path / "grown" / "lineage.json").read_text())
    assert lineage["tokens"] == 1280
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "grown")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "grown")
    prompt = tokenizer("abc", return_tensors="pt").input_ids
    assert model.generate(prompt, max_new_tokens=4, do_sample=False).shape[1] > prompt.shape[1]


def _val_losses(directory: Path) -> list[float]:
    rows = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [row["val/loss"] for row in rows if "val/loss" in row]
