"""Evaluation during training: rows where they are due, the numbers of eval.py, and training as if nobody had asked."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from grow.common.errors import ConfigError, DataError
from grow.config import EvalConfig, compose
from tests.data.conftest import make_sentences, write_json_lines
from tests.evaluation.made import VOCABULARY, make_items, make_tokenizer
from tests.training.tiny import command_line

TASKS = ("arc_easy", "lambada_openai")
LAWA = ("averaging=lawa", "averaging.k=2", "averaging.every_steps=1")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Items, and token shards of two sources."""
    from grow.data.prepare import prepare_files

    directory = tmp_path_factory.mktemp("in_run")
    make_tokenizer(directory / "tokenizer")
    make_items(directory / "items")
    first = write_json_lines(directory / "first.jsonl", make_sentences(200, seed=3))
    second = write_json_lines(directory / "second.jsonl", make_sentences(200, seed=4), source="web")
    given = {"tokenizer": str(directory / "tokenizer"), "vocab_size": None, "shard_tokens": 3000}
    prepare_files([str(first), str(second)], directory / "shards", **given)
    return directory


def overrides(place, run_dir, *more):
    sizes = (f"model.vocab_size={VOCABULARY}", "model.max_positions=96", "trainer.max_tokens=640")
    return command_line(place / "shards", run_dir, *sizes, "model.dropout=0.2", *more)


def evaluating(place, every=256):
    listed = ",".join(TASKS)
    return (
        f"evaluation.tasks=[{listed}]",
        f"evaluation.data_dir={place / 'items'}",
        f"evaluation.every_tokens={every}",
    )


def train(place, run_dir, *more):
    import train as entry

    entry.main.__wrapped__(compose(overrides(place, run_dir, "model=tiny_opt", *more)))
    return run_dir


def rows(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    return train(
        place, tmp_path_factory.mktemp("run") / "run", *evaluating(place), *LAWA, "checkpoint.every_tokens=256"
    )


def test_rows_come_at_the_start_whenever_due_and_at_the_end_before_the_checkpoint_of_their_step(run):
    found = [row for row in rows(run) if "eval/arc_easy/acc" in row]
    assert [row["tokens"] for row in found] == [0, 256, 512, 640]
    assert all(f"eval/{task}/bits_per_byte" in row for row in found for task in (*TASKS, "mean"))
    averaged = ["eval_avg/arc_easy/acc_norm" in row for row in found]
    assert averaged[0] is False
    assert averaged[-1] is True
    state = json.loads((run / "checkpoints" / "step-00000004" / "state.json").read_text())
    kept = (run / "metrics.jsonl").read_bytes()[: state["metrics_bytes"]].decode().splitlines()
    assert "eval/arc_easy/acc" in json.loads(kept[-1])


def test_the_numbers_are_those_of_eval_py(run, place, tmp_path):
    import eval as entry

    last = next(row for row in reversed(rows(run)) if "eval/arc_easy/acc" in row)
    for name, folder in (("eval", "model"), ("eval_avg", "average")):
        listed = [f"checkpoint={run / folder}", f"evaluation.tasks=[{','.join(TASKS)}]", "accelerator=cpu"]
        listed += [f"evaluation.data_dir={place / 'items'}", f"output={tmp_path / folder}"]
        entry.main.__wrapped__(compose(listed, "eval", EvalConfig))
        (row,) = [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
        scores = {key: value for key, value in row.items() if key.startswith(f"{name}/") and "/" in key[9:]}
        assert len(scores) > 8
        assert {key: last[key] for key in scores} == scores


def test_training_does_not_notice(run, place, tmp_path):
    quiet = train(place, tmp_path / "quiet", *LAWA, "checkpoint.every_tokens=256")
    for folder in ("model", "average"):
        first, second = (load_file(path / folder / "model.safetensors") for path in (run, quiet))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_validation_is_the_mean_of_its_sources_and_bits_are_nats_over_bytes(run):
    last = next(row for row in reversed(rows(run)) if "val/loss" in row)
    sources = [last[f"val/{source}/loss"] for source in ("first", "web")]
    assert min(sources) <= last["val/loss"] <= max(sources)
    assert sources[0] != sources[1]
    assert last["val/perplexity"] == pytest.approx(math.exp(last["val/loss"]))
    bytes_a_token = last["val/loss"] / math.log(2) / last["val/bits_per_byte"]
    assert 1 < bytes_a_token < 8
    assert {"val_avg/bits_per_byte", "val_avg/web/bits_per_byte", "val/web/perplexity"} <= last.keys()


def test_what_is_missing_is_said_before_training(place, tmp_path):
    with pytest.raises(DataError, match="fetch_eval_data"):
        train(place, tmp_path / "run", *evaluating(place), f"evaluation.data_dir={tmp_path / 'nowhere'}")
    with pytest.raises(ConfigError, match="has no tasks to score"):
        compose(overrides(place, tmp_path / "run", "evaluation.every_tokens=256"))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
