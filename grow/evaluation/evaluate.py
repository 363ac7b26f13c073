"""Evaluates a model in memory, or a checkpoint on disk with everything around it: results.json and metric rows."""

import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from grow.common.errors import ConfigError, DataError
from grow.common.provenance import digest_files, digest_json, git_commit, versions, write_json
from grow.data.shards import TokenShards
from grow.distributed.processes import from_first, is_first
from grow.evaluation.data import EvaluationData
from grow.evaluation.harness import Finished, Watch, run_tasks
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
    watch: Watch = lambda what, done, total: None,
    finished: Finished | None = None,
    without_grad: WithoutGrad = without_gradients,
) -> Scores:
    """Scores of a model in memory, which is left in the mode it came in. All ranks call this and get the same.

    Args:
        model: a stock model on `device`, of a family Grow knows.
        tokenizer: its tokenizer.
        settings: what to measure.
        device: of this rank.
        items: of the settings' tasks, checked; None where there are no tasks.
        shards: whose validation split is measured; None measures no held-out text.
        sequence_length: tokens of a held-out window.
        watch: told about progress.
        finished: where results of tasks are kept; None keeps none.
        without_grad: computes one pass of the model.
    """
    batch_tokens = settings.batch_tokens or BATCH_TOKENS[device.type]
    scorer = Scorer(model=model, device=device, without_grad=without_grad)
    training = model.training
    model.eval()
    try:
        tasks = {}
        if items is not None:
            tasks = run_tasks(
                scorer, tokenizer, settings, items, batch_tokens=batch_tokens, watch=watch, finished=finished
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
                watch=watch,
            )
    finally:
        model.train(training)
    return Scores(tasks=tasks, heldout=heldout)


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """One checkpoint with all it needs, found and checked before anything is computed."""

    checkpoint: ScoredCheckpoint
    tokenizer: PreTrainedTokenizerFast
    items: EvaluationData | None
    shards: TokenShards | None
    output: Path
    """Directory of its results; rows of metrics go beside it."""


def plan_evaluations(config: EvalConfig) -> list[Planned]:
    """Find every checkpoint, tokenizer and data set, in the order they were named.

    Raises:
        CheckpointError, GrowthError: a checkpoint is missing, damaged, or of an unknown family.
        DataError: a tokenizer, items or shards are missing, damaged or do not fit.
        ConfigError: a task has no items here or none for examples, or two checkpoints would write the same results.
    """
    settings = config.evaluation
    checkpoints = [find_checkpoint(name) for name in config.checkpoints]
    items = EvaluationData.open(settings.data_dir) if settings.tasks else None
    if items is not None:
        items.check(settings.tasks, settings.num_fewshot)
    planned = [_plan(checkpoint, config, items) for checkpoint in checkpoints]
    outputs = [plan.output for plan in planned]
    if len(set(outputs)) < len(outputs):
        raise ConfigError("checkpoint: two of them would write the same results. Leave output= out, or name each once.")
    return planned


def _plan(checkpoint: ScoredCheckpoint, config: EvalConfig, items: EvaluationData | None) -> Planned:
    tokenizer = find_tokenizer(checkpoint, config.tokenizer)
    path = Path(config.heldout) if config.heldout is not None else data_dir(checkpoint)
    shards = None
    if path is not None and config.evaluation.heldout_tokens:
        shards = TokenShards.open(path)
        check_same_vocabulary(tokenizer, config.tokenizer or str(checkpoint.model), path)
    if items is None and shards is None:
        raise DataError(
            f"{checkpoint.model}: nothing to measure it on. Give tasks (evaluation=harness8) or held-out "
            "text (heldout=SHARDS)."
        )
    root = Path(config.output) if config.output is not None else None
    if root is None:
        root = OUTSIDE_A_RUN if checkpoint.run is None else checkpoint.run / "eval"
    return Planned(
        checkpoint=checkpoint, tokenizer=tokenizer, items=items, shards=shards, output=root / checkpoint.name
    )


def evaluate_checkpoint(plan: Planned, config: EvalConfig, device: torch.device, watch: Watch) -> Scores:
    """Load, measure and write down one checkpoint.

    Raises:
        CheckpointError: the weights do not fit their configuration.
    """
    checkpoint, settings, started = plan.checkpoint, config.evaluation, time.perf_counter()
    stored = load_config(checkpoint.model).dtype
    dtype = _DTYPES.get(config.precision) or (stored if isinstance(stored, torch.dtype) else torch.float32)
    weights = from_first(digest_files(weight_files(checkpoint.model)) if is_first() else "")
    batch_tokens = settings.batch_tokens or BATCH_TOKENS[device.type]
    facts = {
        "weights_sha256": weights,
        "tokenizer_sha256": tokenizer_digest(plan.tokenizer),
        "dtype": str(dtype).removeprefix("torch."),
        "batch_tokens": batch_tokens,
        "lm_eval": metadata.version("lm_eval"),
    }
    model = load_model(checkpoint.model, dtype)
    torch.nn.Module.to(model, device)  # in place
    scores = evaluate_model(
        model,
        plan.tokenizer,
        settings,
        device=device,
        items=plan.items,
        shards=plan.shards,
        sequence_length=checkpoint.sequence_length,
        watch=watch,
        finished=Finished(directory=plan.output, key=digest_json(facts)),
    )
    if is_first():
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
            "evaluation_seconds": round(time.perf_counter() - started, 1),
        }
        write_json(plan.output / RESULTS_FILE, content)
        if "tokens" in checkpoint.clock:
            append_row(plan.output.parent, checkpoint.clock, scores.row(settings, averaged=checkpoint.averaged))
    return scores
