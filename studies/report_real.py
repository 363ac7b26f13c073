"""Write the page of studies/real.sh: what a real model scores before and after its growth, item by item, and its loss.

python -m studies.report_real outputs/real
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grow.common.markdown import markdown_table
from grow.common.rows import read_rows

_CHOICES = ("acc", "acc_norm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far two models agree on the items of one task."""

    task: str
    items: int
    same: int
    """Items on which both choose the same answer, by its log-probability and by every metric of the task."""
    apart: float
    """Largest difference between their log-probabilities of an answer, in nats."""
    scores: tuple[float, float]
    """Accuracy of each."""


def main() -> None:
    """Read what the study left, write real.md and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="directory that studies/real.sh wrote")
    study = parser.parse_args().study
    text = page(study)
    (study / "real.md").write_text(text)
    print(text)


def page(study: Path) -> str:
    """Return the page of a study."""
    source, wide = (_samples(study / "eval" / name) for name in ("source", "wide"))
    tasks = [agreement(task, source[task], wide[task]) for task in source]
    growth, deeper = (_read(study / name / "growth.json") for name in ("wide", "deeper"))
    lineage = _read(study / "source" / "lineage.json")
    losses = [row for row in read_rows(study / "deeper" / "metrics.jsonl") if "val/loss" in row]
    first, last = losses[0], losses[-1]
    table = [
        [each.task, str(each.items), *(f"{score:.2f}" for score in each.scores), str(each.same), f"{each.apart:.1e}"]
        for each in tasks
    ]
    fell = "below" if last["val/loss"] < first["val/loss"] else "NOT below"
    return f"""# A real model, grown

Source: {Path(lineage["source"]).name} ({lineage["converted"]}; license {lineage.get("license", "not named")}).

## Twice the width

{growth["tokens"]} random tokens: logits differ by at most {growth["max_abs_logit_diff"]:.1e} of \
{growth["max_abs_logit"]:.3g}; best-fit scale {growth["logit_scale"]:.6f}.
**{sum(each.same for each in tasks)} of {sum(each.items for each in tasks)} items have the same choices**, \
log-probabilities within {max(each.apart for each in tasks):.1e}.
End of text and chat template: {"the source's" if _chat(study / "source") == _chat(study / "wide") else "LOST"}.

{markdown_table(["task", "items", "source acc", "grown acc", "same choices", "log-probabilities apart"], table)}

## 1.5 times the depth

Validation loss on the embedded corpus, nats a token: {deeper["loss_before"]:.3f} before the growth and \
{deeper["loss_after"]:.3f} after it, on {deeper["tokens"]} tokens. On the run's own validation: {first["val/loss"]:.3f}
at its start, {last["val/loss"]:.3f} after {last["tokens"]:,} tokens of training, which is {fell} the source's.
"""


def agreement(task: str, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> Agreement:
    """Compare two models item by item.

    Args:
        task: Name of the task.
        before: Samples of the one, as eval.py keeps them.
        after: Samples of the other, in the same order.
    """
    pairs = list(zip(before, after, strict=True))
    return Agreement(
        task=task,
        items=len(pairs),
        same=sum(_choices(one) == _choices(other) for one, other in pairs),
        apart=max(abs(x - y) for one, other in pairs for x, y in zip(one["logprobs"], other["logprobs"], strict=True)),
        scores=(_mean(before), _mean(after)),
    )


def _choices(sample: dict[str, Any]) -> tuple[Any, ...]:
    logprobs = sample["logprobs"]
    return logprobs.index(max(logprobs)), *(sample.get(name) for name in _CHOICES)


def _mean(samples: list[dict[str, Any]]) -> float:
    return sum(sample["acc"] for sample in samples) / len(samples)


def _samples(directory: Path) -> dict[str, list[dict[str, Any]]]:
    files = (path for path in sorted(directory.glob("*/*.json")) if path.name != "results.json")
    return {path.stem: _read(path)["result"]["samples"] for path in files}


def _chat(directory: Path) -> tuple[Any, ...]:
    settings, template = _read(directory / "tokenizer_config.json"), directory / "chat_template.jinja"
    return settings.get("eos_token"), template.read_text() if template.exists() else settings.get("chat_template")


def _read(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    assert isinstance(content, dict), path
    return content


if __name__ == "__main__":
    main()
