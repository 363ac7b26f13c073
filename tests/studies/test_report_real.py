"""The page of studies/real.sh counts items on which two models choose alike, and says whether the loss fell."""

import json

import pytest

from studies.report_real import agreement, page


def _sample(*logprobs, acc=1.0):
    return {"id": 0, "logprobs": list(logprobs), "gold": 0, "acc": acc}


def test_items_agree_where_answer_and_metrics_do():
    one = [_sample(-1.0, -2.0), _sample(-2.0, -1.0, acc=0.0), _sample(-1.0, -2.0)]
    other = [_sample(-1.5, -2.0), _sample(-1.0, -2.0), _sample(-1.0, -2.0, acc=0.0)]
    found = agreement("made", one, other)
    assert (found.items, found.same, found.apart) == (3, 1, 1.0)
    assert found.scores == pytest.approx((2 / 3, 2 / 3))


@pytest.mark.parametrize(("last", "said"), [(2.0, "is below the source's"), (4.0, "is NOT below the source's")])
def test_the_page_says_what_was_found(tmp_path, last, said):
    for name in ("source", "wide", "deeper", "eval/source/made", "eval/wide/made"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("source", "wide"):
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps({"eos_token": name}))
        scores = {"result": {"samples": [_sample(-1.0, -2.0)]}}
        (tmp_path / "eval" / name / "made" / "piqa.json").write_text(json.dumps(scores))
        (tmp_path / "eval" / name / "made" / "results.json").write_text("{}")
    (tmp_path / "source" / "lineage.json").write_text(json.dumps({"source": "a/model.gguf", "converted": "GGUF Q4_1"}))
    growth = {"tokens": 64, "max_abs_logit_diff": 1e-4, "max_abs_logit": 30.0, "logit_scale": 1.0}
    for name in ("wide", "deeper"):
        (tmp_path / name / "growth.json").write_text(json.dumps({**growth, "loss_before": 3.0, "loss_after": 3.0}))
    rows = [{"tokens": 0, "val/loss": 3.0}, {"tokens": 8, "train/loss": 1.0}, {"tokens": 1024, "val/loss": last}]
    (tmp_path / "deeper" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = page(tmp_path)
    assert "**1 of 1 items have the same choices**, log-probabilities within 0.0e+00." in text
    assert "End of text and chat template: LOST." in text
    assert f"2.000 after 1,024 tokens of training, which {said}".replace("2.000", f"{last:.3f}") in text
