"""The teacher of knowledge inheritance: a finished model, frozen, whole on every rank, no part of what is trained."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from grow.common.errors import ConfigError, DataError, GrowError
from grow.data.shards import TokenShards
from grow.data.tokenizer import vocabulary_digest
from grow.distributed.processes import from_first, is_first
from grow.families.build import load_model, logit_cap, parameter_count, training_flops_per_token
from grow.families.source_directory import find_source
from grow.training.plan import Plan
from grow.training.step.inheritance import InheritanceLoss, TaughtLoss, alpha_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Teaching:
    """What a run is taught by, and how much at each step.

    It is no module, so that the teacher is in no optimizer, checkpoint, average or shard of the student.
    """

    teacher: PreTrainedModel
    loss: InheritanceLoss
    alpha: Callable[[int], float]
    """Share of the teacher's term by the tokens seen before the step."""
    teacher_flops: int
    """FLOPs of the teacher's forward pass for one token."""
    described: str

    def of(self, tokens: Tensor, hidden: Tensor, head: Tensor, targets: Tensor, seen: int) -> TaughtLoss:
        """Compute the losses of one micro-batch.

        Args:
            tokens: Tokens that both models read, int64, (B, T).
            hidden: Hidden states of the student, (B, T, D).
            head: Weight of the student's unembedding, (V, D).
            targets: Next tokens, int64, (B, T).
            seen: Tokens seen before the step.
        """
        with torch.no_grad():
            taught = self.teacher.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        teacher_head = self.teacher.get_output_embeddings().weight
        return self.loss(hidden, head, targets, taught, teacher_head, self.alpha(seen))

    def flops_per_token(self, seen: int) -> int:
        """Return what the teacher adds to the FLOPs of one token at a step: nothing once its share is 0."""
        return self.teacher_flops if self.alpha(seen) > 0 else 0


def open_teaching(
    source: str, plan: Plan, device: torch.device, shards: TokenShards, student: PreTrainedConfig
) -> Teaching:
    """Load a run's teacher and freeze it.

    Args:
        source: Run, model directory or hub id of the teacher.
        plan: Objective, precision and length of the run.
        device: Device of this rank.
        shards: Data of the run, whose tokenizer must be the teacher's.
        student: Architecture of the student, whose vocabulary must have the size of the teacher's.

    Raises:
        CheckpointError: the teacher cannot be read.
        ConfigError: the teacher's vocabulary has another size than the student's.
        DataError: the teacher has another tokenizer than the data.
    """
    objective, found = plan.objective, from_first(_found(source) if is_first() else None)
    if isinstance(found, GrowError):
        raise found  # on every rank
    assert found is not None
    teacher = load_model(found, torch.bfloat16 if plan.autocasts or plan.keeps_bf16_weights else torch.float32)
    if teacher.config.vocab_size != student.vocab_size:
        raise ConfigError(
            f"objective.teacher={source} has a vocabulary of {teacher.config.vocab_size} entries, the student "
            f"one of {student.vocab_size}. A teacher's predictions are over the student's tokens: choose models of one "
            "vocabulary."
        )
    digests = vocabulary_digest(found), vocabulary_digest(shards.tokenizer_dir)
    if None not in digests and digests[0] != digests[1]:
        raise DataError(
            f"objective.teacher={source} has another tokenizer than the data in {shards.path}: their vocabularies have "
            f"the digests {str(digests[0])[:12]} and {str(digests[1])[:12]}. Choose a teacher that was trained on data "
            "of this tokenizer."
        )
    teacher.eval().requires_grad_(False).to(device)
    return Teaching(
        teacher=teacher,
        loss=InheritanceLoss(
            temperature=objective.temperature,
            chunk_rows=objective.chunk_rows,
            compiled=plan.trainer.compile != "none",
            cap=logit_cap(student),
            teacher_cap=logit_cap(teacher.config),
        ),
        alpha=partial(_alpha, plan),
        teacher_flops=training_flops_per_token(teacher, plan.batch.sequence_length) // 3,
        described=f"{found}, {parameter_count(teacher):,} parameters, {_course(plan)}",
    )


def _found(source: str) -> Path | GrowError:
    """Return the teacher's directory, or why there is none."""
    try:
        return find_source(source)
    except GrowError as error:
        return error


def _alpha(plan: Plan, seen: int) -> float:
    return alpha_at(plan.objective, seen, plan.trainer.max_tokens)


def _course(plan: Plan) -> str:
    """Say how alpha changes over the run."""
    objective = plan.objective
    if not objective.alpha_decay:
        course = f"alpha {objective.alpha:g}"
    elif objective.alpha_decay > objective.alpha:
        end = round(plan.trainer.max_tokens * objective.alpha / objective.alpha_decay)
        course = f"alpha from {objective.alpha:g} to 0 at {end:,} tokens"
    else:
        course = f"alpha from {objective.alpha:g} to {objective.alpha - objective.alpha_decay:g}"
    return f"{course}, temperature {objective.temperature:g}"
