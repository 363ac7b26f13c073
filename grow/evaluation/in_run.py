"""The harness's tasks while a model trains: a probe that `fit` asks, on the model as it stands in memory."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from grow.common.errors import ConfigError, DataError
from grow.data.shards import TokenShards
from grow.data.tokenizer import load_tokenizer
from grow.evaluation.data import EvaluationData
from grow.evaluation.settings import EvaluationSettings
from grow.training.plan import Plan

IN_SHARDS = ("zero3", "fsdp2")
"""Strategies under which no rank has the whole model, which the harness's batches are computed on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskProbe:
    """Scores the settings' tasks; a `grow.training.probe.Probe`.

    The model is multiplied in the precision that it trains in. Items are dealt to the ranks as in eval.py.
    """

    settings: EvaluationSettings
    every_tokens: int
    tokenizer: PreTrainedTokenizerFast
    items: EvaluationData
    device: torch.device
    autocasts: bool
    """Whether float32 weights are multiplied in bfloat16."""

    def measure(self, model: PreTrainedModel, *, averaged: bool, hear: Callable[[str], None]) -> dict[str, float]:
        """eval/TASK/METRIC of every task, or eval_avg/TASK/METRIC, and their mean."""
        from grow.evaluation.evaluate import evaluate_model

        scores = evaluate_model(
            model,
            self.tokenizer,
            self.settings,
            device=self.device,
            items=self.items,
            shards=None,
            sequence_length=0,
            watch=lambda what, done, total: hear(f"the evaluation of {what}"),
            forward_context=partial(torch.autocast, self.device.type, torch.bfloat16)
            if self.autocasts
            else nullcontext,
        )
        return scores.row(self.settings, averaged=averaged)


def plan_probes(settings: EvaluationSettings, plan: Plan, device: torch.device, shards: TokenShards) -> list[TaskProbe]:
    """What a run measures beside its validation, with all that it needs found before training starts.

    Raises:
        ConfigError: the strategy spreads the model over the ranks, or a task has no items.
        DataError: items are missing or damaged, or the shards have no tokenizer.
    """
    if settings.every_tokens is None:
        return []
    if plan.is_distributed and plan.strategy.kind in IN_SHARDS:
        raise ConfigError(
            f"evaluation.every_tokens={settings.every_tokens}: strategy={plan.strategy.name} keeps no whole model on "
            "any rank to evaluate. Use strategy=ddp, zero1 or zero2, or set evaluation=none and evaluate "
            "checkpoints with eval.py."
        )
    items = EvaluationData.open(settings.data_dir)
    items.check(settings.tasks)
    if not (shards.tokenizer_dir / "tokenizer.json").is_file():
        raise DataError(
            f"{shards.tokenizer_dir}: expected the tokenizer that evaluation.every_tokens reads items with, found no "
            "tokenizer.json. Prepare the data again, or set evaluation=none."
        )
    return [
        TaskProbe(
            settings=settings,
            every_tokens=settings.every_tokens,
            tokenizer=load_tokenizer(str(shards.tokenizer_dir)),
            items=items,
            device=device,
            autocasts=plan.autocasts,
        )
    ]
