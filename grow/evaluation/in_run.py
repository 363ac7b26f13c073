"""Evaluation during training: what eval.py measures, on the model in memory."""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from grow.common.extras import require
from grow.data.shards import TokenShards
from grow.data.tokenizer import load_tokenizer
from grow.evaluation.data import EvaluationData
from grow.evaluation.settings import EvaluationSettings
from grow.training.step.module import PretrainModule


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationProbe:
    """Scores tasks and held-out text during training; a `grow.training.loop.probe.Probe`.

    Its scores equal those of eval.py on the same weights and in the same precision, which here is that of training.
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
        """Measure the model; all ranks call this when the probe is due.

        Returns:
            eval/TASK/METRIC of each task, eval/mean/METRIC, eval/heldout/SOURCE/METRIC; of averaged weights
            eval_avg/... instead.
        """
        from grow.evaluation.evaluate import evaluate_model  # imports the harness, which only runs that evaluate need

        scores = evaluate_model(
            module.model,
            self.tokenizer,
            self.settings,
            device=module.device,
            items=self.items,
            shards=self.shards,
            sequence_length=self.sequence_length,
            show_progress=lambda what, done, total: heartbeat(f"the evaluation of {what}"),
            without_grad=module.without_grad,
        )
        return scores.row(self.settings, averaged=averaged)


def plan_evaluation(settings: EvaluationSettings, shards: TokenShards, sequence_length: int) -> list[EvaluationProbe]:
    """Plan a run's evaluations, with all that they need found before training starts.

    Returns:
        One probe; none where the settings evaluate nothing during training.

    Raises:
        ConfigError: a task has no items, or no split to sample examples from, or the harness is not installed.
        DataError: items or the shards' tokenizer are missing or damaged.
    """
    if settings.every_tokens is None:
        return []
    require("lm_eval", f"evaluation.every_tokens={settings.every_tokens}")
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
