"""Evaluation and analysis on two ranks under sharding strategies give the numbers of one process."""

import json

import pytest

import grow.evaluation.evaluate  # noqa: F401  (imported here, so that no forked rank has to)
from grow.analysis.weight_analysis import analyze_weights
from grow.cli.config import EvalConfig, compose
from tests.evaluation.made import VOCABULARY, evaluating, make_place
from tests.warm_server import import_everything

pytestmark = pytest.mark.slow

TASKS = ("arc_easy", "lambada_openai")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    import_everything()
    return make_place(tmp_path_factory.mktemp("place"))


def scores(run_dir, prefix):
    found = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in found if "eval/mean/acc" in row or "eval_avg/mean/acc" in row][-1]
    return {name: value for name, value in last.items() if name.startswith(f"{prefix}/") and name.count("/") > 1}


@pytest.mark.parametrize("strategy", ["zero2", "zero3", "fsdp2"])
def test_two_ranks_measure_what_one_process_measures_on_their_weights(place, train, tmp_path, strategy):
    import eval as entry

    sizes = (f"data.path={place / 'shards'}", f"model.vocab_size={VOCABULARY}", "model.max_positions=96")
    lawa = ("averaging=lawa", "averaging.k=2", "averaging.every_steps=1", "averaging.start_tokens=0")
    looks = (*evaluating(place, TASKS, 256), "analysis.every_tokens=256", "analysis.layers=[0]")
    length = ("trainer.max_tokens=256", "checkpoint.every_tokens=256")
    length += ("trainer.val_tokens=144", "trainer.micro_batch=1")  # nine windows: one rank has one more than the other
    run = train(tmp_path / "run", 2, *sizes, *lawa, *looks, *length, f"strategy={strategy}")
    for prefix, folder in (("eval", "model"), ("eval_avg", "average")):
        listed = [f"checkpoint={run / folder}", "accelerator=cpu", f"output={tmp_path / folder}"]
        entry.main.__wrapped__(compose([*listed, *evaluating(place, TASKS, 1)], "eval", EvalConfig))
        assert scores(run, prefix) == scores(tmp_path / folder, prefix)
    live = json.loads((run / "analysis" / "step-00000002.json").read_text())
    offline = analyze_weights(run / "checkpoints" / "step-00000002", None, [0])
    assert live["effective_rank"] == offline.effective_rank
    assert len(live["spectra"]) == 7
