"""The results of an evaluation: means over tasks, metric names, the content of results.json, tables for a terminal."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from grow.common.provenance import METRICS_FILE
from grow.common.rows import cut_torn_line
from grow.evaluation.harness import TaskResult
from grow.evaluation.heldout import HeldOut
from grow.evaluation.settings import EvaluationSettings

RESULTS_FILE = "results.json"
MEAN = "mean"
HELD_OUT = "heldout"
AVERAGED_OVER = ("acc", "acc_norm", "bits_per_byte")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """All scores of one model: by task, and by held-out source."""

    tasks: Mapping[str, TaskResult]
    heldout: Mapping[str, HeldOut]

    def mean(self) -> dict[str, float]:
        """Return unweighted means over the tasks; their standard errors take the tasks as independent.

        A task without acc_norm (lambada_openai, winogrande, boolq, copa) enters the mean of acc_norm with its acc.
        """
        means = {}
        for name in AVERAGED_OVER if self.tasks else ():
            pairs = [(result.metrics, name if name in result.metrics else "acc") for result in self.tasks.values()]
            errors = [metrics[f"{key}_stderr"] for metrics, key in pairs]
            means[name] = sum(metrics[key] for metrics, key in pairs) / len(pairs)
            means[f"{name}_stderr"] = math.sqrt(sum(error**2 for error in errors)) / len(pairs)
        return means

    def metrics(self, *, averaged: bool = False) -> dict[str, float]:
        """Return all scores by metric name: eval/TASK/acc, eval/mean/acc, eval/heldout/SOURCE/loss, ...

        Args:
            averaged: Whether the weights are averaged ones, whose metric names begin with eval_avg.
        """
        prefix = "eval_avg" if averaged else "eval"
        row = {
            f"{prefix}/{task}/{name}": value
            for task, metrics in [*((task, result.metrics) for task, result in self.tasks.items()), (MEAN, self.mean())]
            for name, value in metrics.items()
        }
        for source, held in self.heldout.items():
            for name in ("loss", "perplexity", "bits_per_byte"):
                row[f"{prefix}/{HELD_OUT}/{source}/{name}"] = getattr(held, name)
        return row

    def row(self, settings: EvaluationSettings, *, averaged: bool = False) -> dict[str, float]:
        """Return `metrics` and the settings they were measured with, for a row of JSON; NaN, which JSON lacks, is left
        out.
        """
        measured = {name: value for name, value in self.metrics(averaged=averaged).items() if math.isfinite(value)}
        limit = {} if settings.limit is None else {"eval/limit": settings.limit}
        return measured | limit | {"eval/num_fewshot": settings.num_fewshot}

    def as_json(self) -> dict[str, Any]:
        """Return the measured part of results.json; per-sample results are only in the tasks' own files."""
        tasks = {task: asdict(result) for task, result in self.tasks.items()}
        for result in tasks.values():
            del result["samples"]
        heldout = {source: {**asdict(held), "perplexity": held.perplexity} for source, held in self.heldout.items()}
        return {"tasks": tasks, MEAN: self.mean(), "heldout": heldout}


def append_row(directory: Path, clock: Mapping[str, int | float], metrics: Mapping[str, float]) -> None:
    """Append one row to the metrics.jsonl of a directory of evaluations, in a single write.

    The run's own metrics.jsonl is not written: a run that resumes truncates it to the length at its checkpoint.
    """
    directory.mkdir(parents=True, exist_ok=True)
    cut_torn_line(directory / METRICS_FILE)
    with (directory / METRICS_FILE).open("a") as file:
        file.write(json.dumps({**clock, **metrics}) + "\n")


def score_table(name: str, scores: Scores) -> Table:
    """Return the table of one checkpoint: a line for each task and each held-out source."""
    table = Table("task", "items", "acc", "acc_norm", "bits/byte", "perplexity", title=name, title_justify="left")
    for task, result in scores.tasks.items():
        table.add_row(task, f"{result.items:,}", *_cells(result.metrics), end_section=task == list(scores.tasks)[-1])
    if scores.tasks:
        table.add_row(MEAN, "", *_cells(scores.mean()), end_section=True)
    for source, held in scores.heldout.items():
        cells = f"{held.tokens:,} tokens", "", "", f"{held.bits_per_byte:.4f}", f"{held.perplexity:.3f}"
        table.add_row(f"held out: {source}", *cells)
    return table


def _cells(metrics: Mapping[str, float]) -> list[str]:
    return [_with_error(metrics, name) for name in (*AVERAGED_OVER, "perplexity")]


def _with_error(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    if name == "perplexity":
        return f"{metrics[name]:.4g} ± {metrics['perplexity_stderr']:.2g}"
    return f"{metrics[name]:.4f} ± {metrics[f'{name}_stderr']:.4f}"


def trend_table(rows: Sequence[tuple[str, Mapping[str, int | float], Scores]]) -> Table:
    """Return the table of several checkpoints: a line for each, fewest tokens first."""
    tasks = list(rows[0][2].tasks)
    table = Table("checkpoint", "tokens", "mean acc", "mean acc_norm", "mean bits/byte", *tasks)
    for name, clock, scores in sorted(rows, key=lambda row: row[1].get("tokens", 0)):
        mean = scores.mean()
        cells = [f"{mean[key]:.4f}" if mean else "" for key in AVERAGED_OVER]
        own = [f"{result.metrics.get('acc_norm', result.metrics['acc']):.4f}" for result in scores.tasks.values()]
        table.add_row(name, f"{clock['tokens']:,}" if "tokens" in clock else "", *cells, *own)
    return table
