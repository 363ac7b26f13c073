"""Evaluation and analysis during training: rows when due, the same numbers as offline, and training left unchanged."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from grow.analysis.analyze_run import analyze_run
from grow.cli.config import EvalConfig, compose
from grow.common.errors import ConfigError, DataError
from grow.report.measured import read_measured
from grow.training.step.module import PretrainModule
from tests.evaluation.made import VOCABULARY, evaluating, make_place
from tests.training.tiny import command_line

TASKS = ("arc_easy", "lambada_openai")
LAWA = ("averaging=lawa", "averaging.k=2", "averaging.every_steps=1", "averaging.start_tokens=0")
SOURCE = ("model=tiny_opt", "growth=none", "trainer.max_tokens=256")
GROWN = ("model=tiny_opt_2x", "growth=hyperclone_noisy", "model.embed=32", "model.heads=4", "model.ffn=48")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    torch.set_num_threads(1)  # before the first run of the module: it changes MKL's rounding
    return make_place(tmp_path_factory.mktemp("place"))


def overrides(place, run_dir, *more):
    sizes = (f"model.vocab_size={VOCABULARY}", "model.max_positions=96", "model.dropout=0.2")
    length = ("trainer.max_tokens=640", "checkpoint.every_tokens=256")
    return command_line(place / "shards", run_dir, *sizes, *length, *more)


def train(place, run_dir, *more):
    import train as entry

    entry.main.__wrapped__(compose(overrides(place, run_dir, *more)))
    return run_dir


def rows(run_dir, having="step"):
    found = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [row for row in found if having in row]


def same_weights(first, second, folder="model"):
    one, other = (load_file(run / folder / "model.safetensors") for run in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_seconds(found):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


@pytest.fixture(scope="module")
def source(place, tmp_path_factory):
    """A small model that was evaluated while it trained."""
    return train(place, tmp_path_factory.mktemp("source") / "run", *SOURCE, *evaluating(place, TASKS, 256))


@pytest.fixture(scope="module")
def recipe(place, source):
    """Overrides of a grown run with dropout and an average, and those that make it evaluate and analyze."""
    grown = (*GROWN, f"growth.source={source / 'model'}", *LAWA)
    return grown, (*grown, *evaluating(place, TASKS, 256), "analysis.every_tokens=256", "analysis.layers=[0]")


@pytest.fixture(scope="module")
def run(place, recipe, tmp_path_factory):
    """The grown run, not interrupted."""
    return train(place, tmp_path_factory.mktemp("run") / "run", *recipe[1])


@pytest.fixture(scope="module")
def resumed(place, recipe, tmp_path_factory):
    """The grown run, killed in its fourth step, after its second was saved and evaluated, and then continued."""
    directory, original = tmp_path_factory.mktemp("resumed") / "run", PretrainModule.training_step

    def training_step(self, batch, batch_idx):
        if self.clock.step == 3:
            raise RuntimeError("killed")
        return original(self, batch, batch_idx)

    PretrainModule.training_step = training_step
    try:
        with pytest.raises(RuntimeError, match="killed"):
            train(place, directory, *recipe[1])
    finally:
        PretrainModule.training_step = original
    (directory / "analysis" / "step-00000003.json").write_text(json.dumps({"name": "step-00000003", "tokens": 384}))
    return train(place, directory, *recipe[1])


def test_rows_come_at_the_start_whenever_due_and_at_the_end(run):
    for name in ("eval/arc_easy/acc", "analysis/symmetry/mean"):
        assert [row["tokens"] for row in rows(run, name)] == [0, 256, 512, 640]
    scored = rows(run, "eval/mean/acc")
    assert all(f"eval/{task}/bits_per_byte" in row for row in scored for task in TASKS)
    assert all(f"eval/heldout/{part}/perplexity" in row for row in scored for part in ("first", "web"))
    assert ["eval_avg/arc_easy/acc_norm" in row for row in scored] == [False, True, True, True]


def test_the_numbers_are_those_of_eval_py(run, place, tmp_path):
    import eval as entry

    last = rows(run, "eval/mean/acc")[-1]
    for name, folder in (("eval", "model"), ("eval_avg", "average")):
        listed = [f"checkpoint={run / folder}", "accelerator=cpu", f"output={tmp_path / folder}"]
        listed += evaluating(place, TASKS, 1)
        entry.main.__wrapped__(compose(listed, "eval", EvalConfig))
        (row,) = rows(tmp_path / folder, "tokens")
        scores = {key: value for key, value in row.items() if key.startswith(f"{name}/") and key.count("/") > 1}
        assert len(scores) > 20
        assert {key: last[key] for key in scores} == scores


def test_the_analyses_are_those_of_the_checkpoints(run):
    measured = read_measured("run", run)
    assert [row["tokens"] for row in measured.analyses] == [0, 256, 512, 640]
    assert any(measured.symmetry().values())
    assert measured.spectral_matrices()
    live = json.loads((run / "analysis" / "step-00000004.json").read_text())
    written = rows(run / "analysis")
    found, _ = analyze_run(run, layers=[0])
    saved = json.loads((run / "analysis" / "step-00000004.json").read_text())
    assert without_seconds([live]) == without_seconds([saved])
    assert without_seconds(written) == without_seconds(rows(run / "analysis")[:-1])
    assert [row["name"] for row in found] == [*(f"step-{step:08}" for step in (0, 2, 4, 5)), "model"]
    assert found[-1]["analysis/symmetry/mean"] == found[-2]["analysis/symmetry/mean"]
    assert not (run / "analysis" / ".weights").exists()


def test_what_was_just_grown_is_analyzed_before_any_step(run):
    first, *_, last = rows(run, "analysis/symmetry/mean")
    noised = first["analysis/symmetry/model.decoder.layers.0.fc1.weight"]
    assert noised == pytest.approx(0.82, abs=0.04)  # noise 10 dB below the copies: (1 - 0.1) / (1 + 0.1)
    assert first["analysis/symmetry/model.decoder.embed_tokens.weight"] == pytest.approx(1)
    assert last["analysis/symmetry/model.decoder.embed_tokens.weight"] < 0.9999
    assert not (run / "grown").exists()


def test_forgetting_is_measured_against_the_source_as_it_was_scored(run, source):
    dips = json.loads((run / "analysis" / "forgetting.json").read_text())
    own = rows(source, "eval/mean/acc")[-1]
    assert dips["eval/mean/bits_per_byte"]["own"] == own["eval/mean/bits_per_byte"]
    assert dips["eval/mean/bits_per_byte"]["own"] == pytest.approx(
        rows(run, "eval/mean/acc")[0]["eval/mean/bits_per_byte"]
    )
    assert dips["val/loss"]["own"] == rows(run, "val/loss")[0]["val/loss"]


@pytest.mark.slow
def test_training_is_the_same_with_and_without_evaluation(run, recipe, place, tmp_path):
    quiet = train(place, tmp_path / "quiet", *recipe[0])
    assert same_weights(run, quiet)
    assert same_weights(run, quiet, "average")
    assert not rows(quiet, "eval/mean/acc")
    assert not (quiet / "analysis").exists()


@pytest.mark.slow
def test_a_killed_run_ends_as_the_uninterrupted_one_with_every_point_once(run, resumed):
    assert same_weights(run, resumed)
    assert same_weights(run, resumed, "average")
    for name in ("eval/mean/acc", "analysis/symmetry/mean", "val/web/bits_per_byte"):
        assert without_seconds(rows(resumed, name)) == without_seconds(rows(run, name))
    assert not (resumed / "analysis" / "step-00000003.json").exists()


def test_a_checkpoint_is_written_before_its_step_is_evaluated(run):
    """So a preempted run need not wait for an evaluation, which is then made when the run continues."""
    state = json.loads((run / "checkpoints" / "step-00000004" / "state.json").read_text())
    kept = (run / "metrics.jsonl").read_bytes()[: state["metrics_bytes"]].decode().splitlines()
    assert [row["tokens"] for row in map(json.loads, kept) if "eval/mean/acc" in row] == [0, 256]


def test_validation_is_the_mean_of_its_sources_and_bits_are_nats_over_bytes(run):
    last = rows(run, "val/loss")[-1]
    sources = [last[f"val/{source}/loss"] for source in ("first", "web")]
    assert min(sources) <= last["val/loss"] <= max(sources)
    assert sources[0] != sources[1]
    assert last["val/perplexity"] == pytest.approx(math.exp(last["val/loss"]))
    bytes_a_token = last["val/loss"] / math.log(2) / last["val/bits_per_byte"]
    assert 1 < bytes_a_token < 8
    assert {"val_avg/bits_per_byte", "val_avg/web/bits_per_byte", "val/web/perplexity"} <= last.keys()


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        (["evaluation.tasks=[arc_esy]"], ConfigError, "Did you mean arc_easy"),
        (["evaluation.data_dir=nowhere"], DataError, "fetch_eval_data"),
        (["evaluation.num_fewshot=2"], ConfigError, "no items of arc_easy, lambada_openai but those that are scored"),
        (["evaluation.tasks=[]", "evaluation.heldout_tokens=0"], ConfigError, "measures nothing"),
        (["analysis.every_tokens=0"], ConfigError, "at least 1"),
    ],
)
def test_a_mistake_is_reported_before_training(place, tmp_path, more, error, says):
    with pytest.raises(error, match=says):
        train(place, tmp_path / "run", *SOURCE, *evaluating(place, TASKS, 256), *more)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
