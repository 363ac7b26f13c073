"""A run's checkpoints are analyzed oldest first, and its dip is measured against its source."""

import json
import shutil

import pytest

from grow.analysis.analyze_run import analyze_run, forget_after
from grow.cli.config import compose
from grow.common.errors import CheckpointError
from grow.growth.run import grow
from grow.growth.settings import ScaleSettings
from grow.growth.target import scaled_target
from tests.growth.cases import CONFIGS, make_source


@pytest.fixture
def run(tmp_path):
    """A grown run with two checkpoints and a model, whose loss rose before it fell; its source was evaluated."""
    source = make_source(CONFIGS["llama-gqa"], tmp_path / "source" / "model")
    settings = compose(["growth=hyperclone", "growth.source=x"]).growth
    directory = tmp_path / "run"
    grow(str(source.directory), directory / "model", settings, scaled_target(source.config, ScaleSettings()))
    shutil.move(directory / "model" / "growth.json", directory / "growth.json")
    for step in (2, 1):
        folder = directory / "checkpoints" / f"step-{step:08}"
        shutil.copytree(directory / "model", folder)
        (folder / "state.json").write_text(
            json.dumps({"step": step, "tokens": 10 * step, "flops": 70 * step, "seconds": 1.0})
        )
        (folder / "COMPLETE.json").write_text("{}")
    shutil.copytree(directory / "model", directory / "checkpoints" / "step-00000003")  # never finished
    (directory / "run.json").write_text(json.dumps({"model": {"flops_per_token": 7}}))
    losses = zip((0, 10, 20, 30), (5.0, 6.0, 5.5, 4.5), strict=True)
    rows = [{"step": at // 10, "tokens": at, "flops": 7 * at, "seconds": 1.0, "val/loss": loss} for at, loss in losses]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "source" / "run.json").write_text("{}")
    for place, values in ((tmp_path / "source", {100: 0.5}), (directory, {10: 0.4, 20: 0.6})):
        (place / "eval").mkdir()
        text = "".join(json.dumps({"tokens": at, "eval/mean/acc": acc}) + "\n" for at, acc in values.items())
        (place / "eval" / "metrics.jsonl").write_text(text)
    return directory


def test_rows_are_ordered_complete_and_written_once(run):
    for _ in range(2):
        rows, _ = analyze_run(run)
    assert [(row["name"], row["tokens"]) for row in rows] == [
        *(("step-00000001", 10), ("step-00000002", 20), ("model", 30)),
    ]
    written = [json.loads(line) for line in (run / "analysis" / "metrics.jsonl").read_text().splitlines()]
    assert len(written) == 3
    assert written[0]["flops"] == 70
    assert written[0]["analysis/symmetry/lm_head.weight"] == pytest.approx(1, abs=1e-5)
    assert {path.stem for path in (run / "analysis").glob("step*.json")} == {"step-00000001", "step-00000002"}


def test_the_dip_is_measured_against_the_source(run):
    _, dips = analyze_run(run, layers=[0])
    assert dips["val/loss"].drop == pytest.approx(1.0)
    assert dips["val/loss"].recovered_at_tokens == pytest.approx(25.0)
    assert dips["eval/mean/acc"].own == 0.5
    assert dips["eval/mean/acc"].recovered_at_tokens == pytest.approx(15.0)
    assert json.loads((run / "analysis" / "forgetting.json").read_text()).keys() == dips.keys()


def test_forgetting_is_not_measured_against_scores_of_another_protocol(run):
    """A mean over other tasks or fewer items cannot be compared."""
    for row in ({"eval/limit": 10}, {"eval/copa/acc": 0.9}):
        written = {"tokens": 200, "eval/mean/acc": 0.9, **row}
        with (run.parent / "source" / "eval" / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(written) + "\n")
    _, dips = analyze_run(run, layers=[0])
    assert dips["eval/mean/acc"].own == 0.5


def test_a_run_that_continues_from_earlier_removes_the_analyses_made_after_that(run):
    analyze_run(run, layers=[0])
    forget_after(run, tokens=10)
    assert {path.stem for path in (run / "analysis").glob("*.json")} == {"step-00000001", "forgetting"}


def test_another_directory_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"run\.json"):
        analyze_run(tmp_path)
