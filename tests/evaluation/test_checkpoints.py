"""The weights and the tokenizer that `checkpoint=` names are found, and those that do not fit are refused."""

import json
import math
import shutil
from pathlib import Path

import pytest

from grow.common.errors import CheckpointError, DataError, GrowthError
from grow.evaluation.harness import TaskResult
from grow.evaluation.results import Scores, append_row
from grow.evaluation.scored_checkpoint import find_checkpoint, find_tokenizer, tokenizer_digest
from grow.evaluation.settings import EvaluationSettings
from tests.data.conftest import make_sentences, prepare_files_small, write_json_lines
from tests.evaluation.made import make_model, make_tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run directory as train.py writes it, next to its data."""
    root = tmp_path_factory.mktemp("made")
    make_tokenizer(root / "tokenizer")
    texts = write_json_lines(root / "texts.jsonl", make_sentences(150, seed=3))
    prepare_files_small(root / "shards", texts, tokenizer=str(root / "tokenizer"), vocab_size=None)
    run, model = root / "run", make_model("llama")
    for folder in ("model", "average", "checkpoints/step-00000007"):
        model.save_pretrained(run / folder)
    make_tokenizer(run / "model")
    (run / "checkpoints/step-00000007/state.json").write_text(
        json.dumps({"step": 7, "tokens": 70, "flops": 7000, "seconds": 1.5})
    )
    (run / "checkpoints/step-00000007/COMPLETE.json").write_text("{}")
    facts = {"model": {"flops_per_token": 100, "sequence_length": 32}, "data": {"path": str(root / "shards")}}
    (run / "run.json").write_text(json.dumps({"config": {}, **facts}))
    row = {"step": 10, "tokens": 100, "flops": 10_000, "seconds": 2.0, "val/loss": 3.0}
    (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return root


@pytest.fixture
def run(made, tmp_path) -> Path:
    """A copy of the run that a test may damage."""
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("folder", "name", "tokens", "averaged"),
    [
        ("", "model", 100, False),
        ("model", "model", 100, False),
        ("average", "average", 100, True),
        ("checkpoints/step-00000007", "step-00000007", 70, False),
    ],
)
def test_a_checkpoint_of_a_run_knows_its_clock_and_finds_the_tokenizer(made, folder, name, tokens, averaged):
    found = find_checkpoint(str(made / "run" / folder))
    assert (found.name, found.clock["tokens"], found.averaged) == (name, tokens, averaged)
    assert found.clock["flops"] == 100 * tokens
    assert found.sequence_length == 32
    assert tokenizer_digest(find_tokenizer(found, None)) == tokenizer_digest(make_tokenizer())


def test_without_an_exported_model_the_data_has_the_tokenizer_and_the_checkpoints_are_listed(run):
    shutil.rmtree(run / "model")
    with pytest.raises(CheckpointError, match=r"not exported a model yet.*checkpoints/step-00000007"):
        find_checkpoint(str(run))
    find_tokenizer(find_checkpoint(str(run / "checkpoints/step-00000007")), None)


def test_a_model_outside_a_run_is_named_after_its_path_and_has_no_clock(run, tmp_path):
    shutil.copytree(run / "model", tmp_path / "elsewhere")
    found = find_checkpoint(str(tmp_path / "elsewhere"))
    assert found.run is None and found.clock == {}
    assert found.name.endswith("--elsewhere")
    (tmp_path / "elsewhere" / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"expected a tokenizer\.json in one of .*elsewhere, found none"):
        find_tokenizer(found, None)


def test_an_unfinished_checkpoint_is_refused(run):
    (run / "checkpoints/step-00000007/COMPLETE.json").unlink()
    with pytest.raises(CheckpointError, match="never finished"):
        find_checkpoint(str(run / "checkpoints/step-00000007"))


def test_an_error_names_a_directory_without_a_checkpoint_and_a_truncated_one(run, tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        find_checkpoint(str(tmp_path))
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        find_checkpoint(str(run))


def test_a_family_that_grow_does_not_know_is_refused(run):
    path = run / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "bloom"}))
    with pytest.raises(GrowthError, match="bloom"):
        find_checkpoint(str(run))


@pytest.mark.parametrize("vocabulary", [260, 4096])
def test_a_tokenizer_of_another_vocabulary_is_refused(made, tmp_path, vocabulary):
    from grow.data.tokenizer import save_tokenizer, train_tokenizer

    save_tokenizer(train_tokenizer(make_sentences(400, seed=8), vocabulary), tmp_path / "other")
    with pytest.raises(DataError, match=r"this (is another tokenizer|tokenizer has)"):
        find_tokenizer(find_checkpoint(str(made / "run")), str(tmp_path / "other"))


def test_rows_are_appended_and_hold_no_nan(tmp_path):
    metrics = {"acc": 0.5, "acc_stderr": float("nan"), "bits_per_byte": 1.0, "bits_per_byte_stderr": float("nan")}
    result = TaskResult(task="copa", version=1, items=1, metrics=metrics, prompts_sha256="")
    settings = EvaluationSettings(name="x", tasks=["copa"], limit=1)
    row = Scores(tasks={"copa": result}, heldout={}).row(settings)
    assert not any(math.isnan(value) for value in row.values())
    assert (row["eval/copa/acc"], row["eval/limit"], row["eval/num_fewshot"]) == (0.5, 1, 0)
    append_row(tmp_path, {"tokens": 1}, {"eval/copa/acc": 0.5})
    append_row(tmp_path, {"tokens": 2}, {"eval/copa/acc": 0.6})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"tokens": 1, "eval/copa/acc": 0.5}, {"tokens": 2, "eval/copa/acc": 0.6}]
