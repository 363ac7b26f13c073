"""Evaluation while a model trains: what eval.py measures, on the model as it stands in memory."""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from grow.data.shards import TokenShards
from grow.data.tokenizer import load_tokenizer
from grow.evaluation.data import EvaluationData
from grow.evaluation.settings import EvaluationSettings
from grow.training.step.module import PretrainModule


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationProbe:
    """Scores tasks and held-out text; a `grow.training.loop.probe.Probe`.

    Batches are dealt to the ranks as in eval.py, and every number is the one that eval.py finds on the same weights in
    the same precision: here the one that the model trains in.
    """

    settings: EvaluationSettings
    every_tokens: int
    tokenizer: PreTrainedTokenizerFast
    items: EvaluationData | None
    shards: TokenShards
    sequence_length: int
    name: str = "evaluation"
    of_average: bool = True
    shown: tuple[str, ...] = ("eval/mean/acc", "eval/mean/bits_per_byte", "eval_avg/mean/acc")

    def measure(self, module: PretrainModule, heartbeat: Callable[[str], None], averaged: bool) -> dict[str, float]:
        """eval/TASK/METRIC of every task and their mean, eval/heldout/SOURCE/METRIC; or eval_avg/..."""
        from grow.evaluation.evaluate import evaluate_model  # imports the harness: only runs that evaluate wait for it

        scores = evaluate_model(
            module.model,
            self.tokenizer,
            self.settings,
            device=module.device,
            items=self.items,
            shards=self.shards,
            sequence_length=self.sequence_length,
            watch=lambda what, done, total: heartbeat(f"the evaluation of {what}"),
            without_grad=module.without_grad,
        )
        return scores.row(self.settings, averaged=averaged)


def plan_evaluation(settings: EvaluationSettings, shards: TokenShards, sequence_length: int) -> list[EvaluationProbe]:
    """What a run evaluates, if anything, with all that it needs found before training starts.

    Raises:
        ConfigError: a task has no items, or no items to draw examples from.
        DataError: items are missing or damaged, or the shards' tokenizer is.
    """
    if settings.every_tokens is None:
        return []
    items = EvaluationData.open(settings.data_dir) if settings.tasks else None
    if items is not None:
        items.check(settings.tasks, settings.num_fewshot)
    return [
        EvaluationProbe(
            settings=settings,
            every_tokens=settings.every_tokens,
            tokenizer=load_tokenizer(str(shards.tokenizer_dir)),
            items=items,
            shards=shards,
            sequence_length=sequence_length,
        )
    ]
