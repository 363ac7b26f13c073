"""Evaluations and analyses of a run appear on its page, and only comparable scores share a figure."""

import json

import pytest

from grow.report.arms import read_arms
from grow.report.measured import protocol_of, read_measured
from grow.report.measured_figures import draw_measured
from grow.report.publish import as_html
from grow.report.verdict import judge

MATRICES = [
    *(f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1, 3)),
    *("model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"),
]


@pytest.fixture
def run(make_run, source):
    """A grown run with score rows, two analyses and a dip."""
    directory = make_run("grown", [5.0, 4.5, 4.0], growth="hyperclone_noisy", source=source)
    (directory / "eval").mkdir()
    rows = [
        {"tokens": 2000, "eval/mean/acc": 0.4, "eval/mean/acc_stderr": 0.01},
        {"tokens": 1000, "eval/mean/acc": 0.35, "eval/mean/acc_stderr": 0.01},
        {"tokens": 1000, "eval/mean/acc": 0.3, "eval/mean/acc_stderr": 0.01},
        {"tokens": 1000, "eval_avg/mean/acc": 0.5},
        {"tokens": 1000, "eval/mean/acc": 0.9, "eval/limit": 10},
        {"eval/mean/acc": 0.1},
    ]
    with (directory / "metrics.jsonl").open("a") as file:  # measured while it trained
        file.write(json.dumps(rows.pop(2)) + "\n")
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"tokens": 30'
    (directory / "eval" / "metrics.jsonl").write_text(text)
    (directory / "analysis").mkdir()
    for step in (1, 2):
        content = {
            "name": f"step-{step}",
            "tokens": 1000 * step,
            "symmetry": dict.fromkeys([*MATRICES, "lm_head.weight"], 1.0 / step),
            "effective_rank": dict.fromkeys(MATRICES, 3.0 + step),
            "spectra": {name: [2.0, 1.0, 0.0] for name in MATRICES},
        }
        (directory / "analysis" / f"step-{step}.json").write_text(json.dumps(content))
    dip = {"own": 4.0, "worst": 5.0, "worst_at_tokens": 1000, "drop": 1.0, "recovered_at_tokens": None}
    (directory / "analysis" / "forgetting.json").write_text(json.dumps({"val/loss": dip}))
    return directory


def test_trends_are_sorted_take_the_last_measurement_and_keep_protocols_apart(run):
    found = read_measured("x", run)
    everything = "all items, 0-shot"
    assert found.trend("acc", averaged=False, protocol=everything) == [(1000, 0.35, 0.01), (2000, 0.4, 0.01)]
    assert found.trend("acc", averaged=True, protocol=everything) == [(1000, 0.5, None)]
    assert found.trend("acc", averaged=False, protocol="first 10 items, 0-shot") == [(1000, 0.9, None)]
    assert protocol_of({"eval/num_fewshot": 5}) == "all items, 5-shot"
    named = {"eval/mean/acc": 0.5, "eval/copa/acc": 0.5, "eval/arc_easy/acc": 0.5, "eval/limit": 10}
    assert protocol_of(named) == "arc_easy, copa, first 10 items, 0-shot"


def test_the_papers_matrices_are_chosen(run):
    found = read_measured("x", run)
    assert list(found.symmetry()) == [f"layers.{layer}.mlp.up_proj" for layer in (0, 1, 3)] + ["lm_head"]
    assert found.symmetry()["lm_head"] == [(1000, 1.0, None), (2000, 0.5, None)]
    assert [name.split(".")[-2] for name in found.spectral_matrices()] == ["up_proj", "q_proj", "down_proj"]


def test_the_page_shows_what_was_measured(run, tmp_path):
    page = as_html(judge([str(run)], baseline=[], continued=[], amortised_over=4), b"")
    for title in ("all items, 0-shot", "first 10 items", "Symmetry of the copies", "Effective rank", "Singular values"):
        assert title in page
    assert "not within the run" in page


def test_a_run_without_measurements_adds_nothing(make_run):
    directory = make_run("plain", [5.0, 4.0])
    (arm,) = read_arms([str(directory)])
    assert draw_measured([read_measured(arm.label, directory)]) == []
    page = as_html(judge([str(directory)], baseline=[], continued=[], amortised_over=4), b"")
    assert "Forgetting" not in page and "Symmetry" not in page
