"""A real run's checkpoints, averaged and swept: what was trained is what is loaded, validated and accounted for."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from grow.averaging.offline import average_checkpoints
from grow.averaging.settings import AveragingSettings, SweepAveragesConfig
from grow.averaging.sources import find_sources
from grow.averaging.window_sweep import as_table, sweep
from grow.common.errors import CheckpointError, ConfigError
from grow.families.build import load_model
from tests.averaging.conftest import reference_mean, same
from tests.training.tiny import in_process, make_shards

pytestmark = pytest.mark.slow

STEPS = [2, 4, 6, 8, 10]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Ten steps, a checkpoint every two, all of them kept, and validated at each."""
    train = in_process(make_shards(tmp_path_factory.mktemp("shards")))
    every = ["checkpoint.every_tokens=256", "checkpoint.keep_last=100", "trainer.val_every_tokens=256"]
    return train(tmp_path_factory.mktemp("runs") / "run", *every)


def lawa(k):
    return AveragingSettings(name="lawa", kind="lawa", k=k)


def test_a_run_stands_for_its_checkpoints_in_order(run):
    assert [source.step for source in find_sources([str(run)])] == STEPS


def test_a_checkpoint_that_was_never_finished_is_not_looked_at(run, tmp_path):
    torn = run / "checkpoints" / "step-00000012"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")
    try:
        assert [source.step for source in find_sources([str(run)])] == STEPS
    finally:
        shutil.rmtree(torn)


def test_the_average_of_a_run_is_a_stock_model_with_the_runs_tokenizer_and_cost(run, tmp_path):
    average_checkpoints([str(run)], lawa(3), tmp_path / "out")
    newest = [load_file(run / "checkpoints" / f"step-{step:08}" / "model.safetensors") for step in STEPS[-3:]]
    assert same(load_file(tmp_path / "out" / "model.safetensors"), reference_mean(newest))
    load_model(tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").exists()
    lineage = json.loads((tmp_path / "out" / "lineage.json").read_text())
    final = json.loads((run / "model" / "lineage.json").read_text())
    assert (lineage["tokens"], lineage["flops"]) == (final["tokens"], final["flops"])
    assert 0 < lineage["seconds"] <= final["seconds"]


def test_a_sweep_measures_the_live_model_as_the_run_did_and_every_window_that_fits(run, tmp_path):
    curves = sweep(SweepAveragesConfig(run=str(run), output=str(tmp_path), k=[1, 2, 3], every_steps=[2, 4]))
    assert [(curve.k, curve.every_steps, curve.steps) for curve in curves] == [
        (1, 2, STEPS),
        (2, 2, STEPS[1:]),
        (2, 4, STEPS[2:]),
        (3, 2, STEPS[2:]),
        (3, 4, STEPS[4:]),
    ]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = {row["step"]: row["val/loss"] for row in rows if "val/loss" in row}
    assert curves[0].losses == pytest.approx([logged[step] for step in STEPS], abs=1e-5)
    header, table = as_table(curves)
    assert all(len(row) == len(header) for row in table) and table[0][-1] == "+0.0000"


def test_the_script_writes_its_table_and_figure(run, tmp_path, capsys):
    from scripts.sweep_averages import main

    main.__wrapped__(SweepAveragesConfig(run=str(run), output=str(tmp_path / "out"), k=[5], every_steps=None))
    assert "k=5, every 2 steps" in capsys.readouterr().out
    curves = json.loads((tmp_path / "out" / "sweep.json").read_text())["curves"]
    assert [len(curve["losses"]) for curve in curves] == [5, 1]
    assert (tmp_path / "out" / "sweep.png").stat().st_size > 10_000


def test_windows_that_do_not_fit_say_what_there_is(run, tmp_path):
    with pytest.raises(ConfigError, match=r"5 checkpoints of .*steps 2, 4, 6, 8, 10.*keep_last"):
        sweep(SweepAveragesConfig(run=str(run), output=str(tmp_path), k=[6], every_steps=[2], val_tokens=16))
    with pytest.raises(CheckpointError, match=r"run\.json"):
        sweep(SweepAveragesConfig(run=str(tmp_path), output=str(tmp_path)))
    with pytest.raises(ConfigError, match="k=0"):
        SweepAveragesConfig(run="x", output="y", k=[0])
