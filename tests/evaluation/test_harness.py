"""Every task, on items made up here, gives what the harness's own hf model gives; and a killed evaluation continues."""

import os

import pytest
import torch
from lm_eval.api.metrics import mean_stderr

from grow.common.errors import ConfigError
from grow.evaluation.catalogue import TASKS
from grow.evaluation.evaluate import evaluate_model
from grow.evaluation.harness import ResultCache, quiet, run_tasks
from grow.evaluation.results import Scores
from grow.evaluation.scoring import Scorer
from grow.evaluation.settings import EvaluationSettings
from tests.evaluation.made import make_model

CPU = torch.device("cpu")


def settings(tasks=tuple(TASKS), **changes) -> EvaluationSettings:
    return EvaluationSettings(name="made", tasks=list(tasks), **changes)


def run(model, tokenizer, items, wanted, show_progress=lambda *_: None, **more):
    scorer = Scorer(model=model, device=CPU)
    return run_tasks(scorer, tokenizer, wanted, items, batch_tokens=512, show_progress=show_progress, **more)


@pytest.fixture(scope="module")
def results(model, tokenizer, items):
    return run(model, tokenizer, items, settings())


@pytest.fixture(scope="module")
def stock(model, tokenizer, items, tmp_path_factory):
    """The results of `lm_eval --model hf` on the same model and items."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    directory = tmp_path_factory.mktemp("tasks")
    items.write_task_files(TASKS, directory)
    with quiet():
        harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3)
        manager = TaskManager(include_path=str(directory), include_defaults=False)
        return lm_eval.simple_evaluate(model=harness, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_scores_each_item_as_the_harness_does(task, results, stock):
    mine = results[task]
    theirs = sorted(stock["samples"][task], key=lambda sample: sample["doc_id"])
    assert [sample["id"] for sample in mine.samples] == [sample["doc_id"] for sample in theirs]
    for own, other in zip(mine.samples, theirs, strict=True):
        assert own["logprobs"] == pytest.approx([float(answer[0]) for answer in other["filtered_resps"]], abs=1e-3)
        for name in set(other["metrics"]) - {"perplexity"}:
            assert own[name] == float(other[name])
    assert mine.version == stock["versions"][task]
    for name in mine.metrics.keys() & {"acc", "acc_norm"}:
        assert mine.metrics[name] == stock["results"][task][f"{name},none"]
        assert mine.metrics[f"{name}_stderr"] == mean_stderr([sample[name] for sample in theirs])
    if "perplexity" in mine.metrics:
        assert mine.metrics["perplexity"] == pytest.approx(stock["results"][task]["perplexity,none"], rel=1e-3)


def test_bits_per_byte_are_those_of_the_right_answer_alone(results, items):
    (split,) = items.tasks["sciq"]["splits"]
    for item, sample in zip(items.items("sciq", split), results["sciq"].samples, strict=True):
        assert sample["gold"] == 3
        nats = sample["bits_per_byte"] * torch.tensor(2.0).log().item() * len(f" {item['correct_answer']}".encode())
        assert nats == pytest.approx(-sample["logprobs"][3], rel=1e-5)


def test_the_mean_takes_acc_where_a_task_has_no_acc_norm(results):
    scores = Scores(tasks={name: results[name] for name in ("arc_easy", "winogrande")}, heldout={})
    assert "acc_norm" not in results["winogrande"].metrics
    expected = (results["arc_easy"].metrics["acc_norm"] + results["winogrande"].metrics["acc"]) / 2
    assert scores.mean()["acc_norm"] == pytest.approx(expected)
    assert scores.metrics()["eval/mean/acc_norm"] == scores.metrics(averaged=True)["eval_avg/mean/acc_norm"]


def test_a_killed_evaluation_continues_at_the_next_task(model, tokenizer, items, tmp_path):
    wanted, started = settings(["copa", "piqa", "boolq"]), []

    def killed(task, done, total):
        started.append(task)
        if task == "boolq":
            raise KeyboardInterrupt

    cache = ResultCache(directory=tmp_path, key="weights")
    with pytest.raises(KeyboardInterrupt):
        run(model, tokenizer, items, wanted, show_progress=killed, cache=cache)
    again: list[str] = []
    results = run(model, tokenizer, items, wanted, show_progress=lambda task, *_: again.append(task), cache=cache)
    assert set(started) == {"copa", "piqa", "boolq"}
    assert set(again) == {"boolq"}
    assert results == run(model, tokenizer, items, wanted)


@pytest.mark.parametrize(
    ("key", "changes"), [("other weights", {}), ("weights", {"limit": 2}), ("weights", {"num_fewshot": 1})]
)
def test_results_of_other_weights_or_settings_are_not_reused(key, changes, model, tokenizer, items, tmp_path):
    run(model, tokenizer, items, settings(["copa"]), cache=ResultCache(directory=tmp_path, key="weights"))
    again: list[str] = []
    other = settings(["copa"], **changes)
    cache = ResultCache(directory=tmp_path, key=key)
    run(model, tokenizer, items, other, show_progress=lambda task, *_: again.append(task), cache=cache)
    assert again


def test_examples_come_before_the_item(model, tokenizer, items):
    none, two = (run(model, tokenizer, items, settings(["copa"], num_fewshot=count))["copa"] for count in (0, 2))
    assert none.prompts_sha256 != two.prompts_sha256
    assert none.samples[0]["logprobs"] != two.samples[0]["logprobs"]


def test_a_model_in_training_is_measured_without_dropout_and_left_as_it_was(tokenizer, items):
    model = make_model("opt").train()  # its configuration drops out
    wanted = settings(["copa"], heldout_tokens=0)
    everything = {"device": CPU, "items": items, "shards": None, "sequence_length": 16}
    first, second = (evaluate_model(model, tokenizer, wanted, **everything).metrics() for _ in range(2))
    assert first == second
    assert model.training
    assert {"eval/copa/acc", "eval/copa/bits_per_byte", "eval/mean/acc_norm"} <= first.keys()


def test_a_continuation_longer_than_the_model_is_refused(model, tokenizer, items, monkeypatch):
    monkeypatch.setattr(model.config, "max_position_embeddings", 2)
    with pytest.raises(ConfigError, match="does not fit a model of 2 positions"):
        run(model, tokenizer, items, settings(["arc_easy"]))
