"""The evaluation of a model in memory, and of checkpoints on disk, whose results.json and metric rows it writes."""

import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from grow.common.errors import ConfigError, DataError
from grow.common.files import check_writable
from grow.common.provenance import digest_json, git_commit, sha256_files, versions, write_record
from grow.data.shards import TokenShards
from grow.distributed.processes import from_first, is_first
from grow.evaluation.data import EvaluationData
from grow.evaluation.harness import ResultCache, ShowProgress, run_tasks
from grow.evaluation.heldout import measure_heldout
from grow.evaluation.results import RESULTS_FILE, Scores, append_row
from grow.evaluation.scored_checkpoint import (
    ScoredCheckpoint,
    check_same_vocabulary,
    data_dir,
    find_checkpoint,
    find_tokenizer,
    tokenizer_digest,
)
from grow.evaluation.scoring import Scorer, WithoutGrad, without_gradients
from grow.evaluation.settings import EvalConfig, EvaluationSettings
from grow.families.build import load_config, load_model
from grow.families.weights import weight_files

OUTSIDE_A_RUN = Path("outputs/eval")
BATCH_TOKENS = {"cpu": 4096, "cuda": 32_768}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def evaluate_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    settings: EvaluationSettings,
    *,
    device: torch.device,
    items: EvaluationData | None,
    shards: TokenShards | None,
    sequence_length: int,
    show_progress: ShowProgress = lambda what, done, total: None,
    cache: ResultCache | None = None,
    without_grad: WithoutGrad = without_gradients,
) -> Scores:
    """Score a model in memory. All ranks call this and get the same scores.

    The model is put into evaluation mode and, at the end, back into the mode it came in.

    Args:
        model: Stock model on `device`, of a family that Grow knows.
        tokenizer: Tokenizer of the model.
        settings: What to measure.
        device: Device of this rank.
        items: Checked items of the settings' tasks; None where there are no tasks.
        shards: Token shards whose validation split is measured; None measures no held-out text.
        sequence_length: Tokens of one held-out window.
        show_progress: Function called as requests are answered.
        cache: Results of finished tasks, on disk; None keeps none.
        without_grad: Function that runs one forward pass without gradients.
    """
    batch_tokens = settings.batch_tokens or BATCH_TOKENS[device.type]
    scorer = Scorer(model=model, device=device, without_grad=without_grad)
    training = model.training
    model.eval()
    try:
        tasks = {}
        if items is not None:
            tasks = run_tasks(
                scorer, tokenizer, settings, items, batch_tokens=batch_tokens, show_progress=show_progress, cache=cache
            )
        heldout = {}
        if shards is not None and settings.heldout_tokens:
            heldout = measure_heldout(
                scorer,
                tokenizer,
                shards,
                sequence_length=sequence_length,
                tokens=settings.heldout_tokens,
                batch_tokens=batch_tokens,
                show_progress=show_progress,
            )
    finally:
        model.train(training)
    return Scores(tasks=tasks, heldout=heldout)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedEvaluation:
    """One checkpoint with all that its evaluation needs, found and checked before anything is computed."""

    checkpoint: ScoredCheckpoint
    tokenizer: PreTrainedTokenizerFast
    items: EvaluationData | None
    shards: TokenShards | None
    output: Path
    """Directory of its results; rows of metrics go into the directory above."""


def plan_evaluations(config: EvalConfig) -> list[PlannedEvaluation]:
    """Find every checkpoint with its tokenizer and data, in the order of the configuration.

    Raises:
        CheckpointError, GrowthError: a checkpoint is missing, damaged, or of an unknown family.
        DataError: a tokenizer, items or shards are missing, damaged or do not fit.
        ConfigError: a task has no items here or none for examples, two checkpoints would write the same results, or a
            directory of results cannot be written.
    """
    settings = config.evaluation
    checkpoints = [find_checkpoint(name) for name in config.names]
    items = EvaluationData.open(settings.data_dir) if settings.tasks else None
    if items is not None:
        items.check(settings.tasks, settings.num_fewshot)
    planned = [_plan(checkpoint, config, items) for checkpoint in checkpoints]
    outputs = [plan.output for plan in planned]
    if len(set(outputs)) < len(outputs):
        raise ConfigError("checkpoint: two of them would write the same results. Leave output= out, or name each once.")
    for output in outputs:
        check_writable(output, "Write the results elsewhere: output=DIRECTORY.")
    for shards in {plan.shards.path: plan.shards for plan in planned if plan.shards is not None}.values():
        for shard in shards.of_split("validation"):
            shards.check(shard)
    return planned


def _plan(checkpoint: ScoredCheckpoint, config: EvalConfig, items: EvaluationData | None) -> PlannedEvaluation:
    tokenizer = find_tokenizer(checkpoint, config.tokenizer)
    path = Path(config.heldout) if config.heldout is not None else data_dir(checkpoint)
    shards = None
    if path is not None and config.evaluation.heldout_tokens:
        shards = TokenShards.open(path)
        check_same_vocabulary(tokenizer, config.tokenizer or str(checkpoint.model), path)
    if items is None and shards is None:
        raise DataError(
            f"{checkpoint.model}: expected tasks or held-out text to measure it on, found neither. Choose tasks "
            "(evaluation=harness8) or give held-out text (heldout=SHARDS)."
        )
    root = Path(config.output) if config.output is not None else None
    if root is None:
        root = OUTSIDE_A_RUN if checkpoint.run is None else checkpoint.run / "eval"
    return PlannedEvaluation(
        checkpoint=checkpoint, tokenizer=tokenizer, items=items, shards=shards, output=root / checkpoint.name
    )


def evaluate_checkpoint(
    plan: PlannedEvaluation, config: EvalConfig, device: torch.device, show_progress: ShowProgress
) -> Scores:
    """Load a planned checkpoint, measure it, and write its results. All ranks call this; the first one writes.

    Args:
        plan: Checkpoint with its tokenizer, items and shards.
        config: Configuration of eval.py.
        device: Device of this rank.
        show_progress: Function called as requests are answered.

    Raises:
        CheckpointError: the weights do not fit their configuration.
    """
    started = time.perf_counter()
    dtype = _dtype_of(plan.checkpoint, config.precision)
    facts = _deciding_facts(plan, config, dtype, device)
    model = load_model(plan.checkpoint.model, dtype)
    torch.nn.Module.to(model, device)  # in place
    scores = evaluate_model(
        model,
        plan.tokenizer,
        config.evaluation,
        device=device,
        items=plan.items,
        shards=plan.shards,
        sequence_length=plan.checkpoint.sequence_length,
        show_progress=show_progress,
        cache=ResultCache(directory=plan.output, key=digest_json(facts)),
    )
    if is_first():
        _write_results(plan, config.evaluation, scores, facts, time.perf_counter() - started)
    return scores


def _dtype_of(checkpoint: ScoredCheckpoint, precision: str) -> torch.dtype:
    """Return the dtype to compute in; auto takes that of the stored weights."""
    stored = load_config(checkpoint.model).dtype
    return _DTYPES.get(precision) or (stored if isinstance(stored, torch.dtype) else torch.float32)


def _deciding_facts(
    plan: PlannedEvaluation, config: EvalConfig, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Return all that decides a checkpoint's scores besides the tasks themselves."""
    weights = from_first(sha256_files(weight_files(plan.checkpoint.model)) if is_first() else "")
    return {
        "weights_sha256": weights,
        "tokenizer_sha256": tokenizer_digest(plan.tokenizer),
        "dtype": str(dtype).removeprefix("torch."),
        "batch_tokens": config.evaluation.batch_tokens or BATCH_TOKENS[device.type],
        "lm_eval": metadata.version("lm_eval"),
    }


def _write_results(
    plan: PlannedEvaluation, settings: EvaluationSettings, scores: Scores, facts: dict[str, Any], seconds: float
) -> None:
    """Write results.json, and append a row of metrics where the checkpoint's tokens are known."""
    checkpoint = plan.checkpoint
    plan.output.mkdir(parents=True, exist_ok=True)
    content = {
        "checkpoint": str(checkpoint.model),
        "averaged": checkpoint.averaged,
        **checkpoint.clock,
        **scores.as_json(),
        "items": None if plan.items is None else str(plan.items.path),
        "evaluation": asdict(settings),
        **facts,
        "versions": versions(),
        "git_commit": git_commit(),
        "evaluation_seconds": round(seconds, 1),
    }
    write_record(plan.output / RESULTS_FILE, content)
    if "tokens" in checkpoint.clock:
        append_row(plan.output.parent, checkpoint.clock, scores.row(settings, averaged=checkpoint.averaged))
