"""Runs of the harness's tasks on a model in memory, one after the other; finished tasks are read from the disk."""

import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")  # items are local; read when lm_eval imports datasets

import lm_eval.evaluator
from lm_eval.api.metrics import mean_stderr
from lm_eval.tasks import TaskManager

from grow.common.errors import CheckpointError
from grow.common.provenance import digest_json, write_json
from grow.common.records import read_record
from grow.distributed.processes import from_first, is_first
from grow.evaluation.data import EvaluationData
from grow.evaluation.harness_model import HarnessModel
from grow.evaluation.scoring import Scorer
from grow.evaluation.settings import EvaluationSettings

FEWSHOT_SEED = 1234  # the harness's own default
ShowProgress = Callable[[str, int, int], None]
"""Called with a task or held-out source, the number of requests answered so far, and the number of all."""


@dataclass(kw_only=True, slots=True)
class TaskResult:
    """The scores of a model on one task."""

    task: str
    version: float | str
    items: int
    metrics: dict[str, float]
    """Those of acc, acc_norm, perplexity and bits_per_byte that the task has, each with its NAME_stderr."""
    prompts_sha256: str
    """SHA-256 of all contexts and continuations that were scored, in order."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """One entry for each item: its id, the log-probability of each choice in nats, and the item's own metrics."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _CachedResult:
    """Content of a finished task's file."""

    key: str
    result: TaskResult


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultCache:
    """Results of finished tasks on disk, so that a killed evaluation continues at the next task.

    Args:
        directory: Directory of the files, one for each task.
        key: Digest of all that results depend on besides the task: weights, tokenizer, precision, ...
    """

    directory: Path
    key: str

    def load(self, task: str, digest: str) -> TaskResult | None:
        """Read the result of a task; None where there is none from the same model, items and settings."""
        try:
            found = read_record(self.directory / f"{task}.json", _CachedResult)
        except CheckpointError:
            return None
        return found.result if found.key == self._key_of(digest) else None

    def save(self, result: TaskResult, digest: str) -> None:
        """Write the result of a task."""
        self.directory.mkdir(parents=True, exist_ok=True)
        content = {"key": self._key_of(digest), "result": asdict(result)}
        write_json(self.directory / f"{result.task}.json", content)

    def _key_of(self, digest: str) -> str:
        return digest_json([self.key, digest, [field.name for field in fields(TaskResult)]])


def run_tasks(
    scorer: Scorer,
    tokenizer: PreTrainedTokenizerFast,
    settings: EvaluationSettings,
    data: EvaluationData,
    *,
    batch_tokens: int,
    show_progress: ShowProgress,
    cache: ResultCache | None = None,
) -> dict[str, TaskResult]:
    """Run every task of the settings. All ranks call this and get the same results.

    Args:
        scorer: Model that scores the requests.
        tokenizer: Tokenizer of the model.
        settings: Names of the tasks, and numbers of items and examples.
        data: Items of the tasks, checked by the caller.
        batch_tokens: Largest number of tokens in a batch, padding included.
        show_progress: Function called as requests are answered.
        cache: Results of finished tasks, on disk; None keeps none.
    """
    results = {}
    with tempfile.TemporaryDirectory() as scratch, quiet():
        data.write_task_files(settings.tasks, Path(scratch))
        manager = TaskManager(include_path=scratch, include_defaults=False)
        for name in settings.tasks:
            loaded = manager.load([name])
            version = (loaded["tasks"][name].config.metadata or {}).get("version")
            digest = digest_json([name, version, data.digest(name), settings.num_fewshot, settings.limit])
            result = from_first(cache.load(name, digest) if cache and is_first() else None)
            if result is None:
                model = HarnessModel(
                    scorer,
                    tokenizer,
                    batch_tokens=batch_tokens,
                    progress=partial(show_progress, name),
                )
                result = _run(name, loaded, model, settings)
                if cache is not None and is_first():
                    cache.save(result, digest)
            results[name] = result
    return results


def _run(name: str, loaded: Any, model: HarnessModel, settings: EvaluationSettings) -> TaskResult:
    task = loaded["tasks"][name]
    task.set_config(key="num_fewshot", value=settings.num_fewshot)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    found = lm_eval.evaluator.evaluate(model, loaded, limit=settings.limit, bootstrap_iters=0, log_samples=True)
    raw = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    samples = [_sample(task, sample) for sample in raw]
    metrics = {
        key.removesuffix(",none"): value for key, value in found["results"][name].items() if key.endswith(",none")
    }
    return TaskResult(
        task=name,
        version=found["versions"][name],
        items=len(samples),
        metrics=_with_errors(metrics, samples),
        prompts_sha256=_digest_prompts(raw),
        samples=samples,
    )


def _sample(task: Any, sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of an item.

    Its bits per byte are those of the right answer as it was scored, leading space included.
    """
    logprobs = [float(answer[0]) for answer in sample["filtered_resps"]]
    gold = _gold(task, sample["doc"], len(logprobs))
    scored_bytes = len(sample["arguments"][gold][1].encode())
    kept = {name: float(sample[name]) for name in sample["metrics"]}
    bits_per_byte = -logprobs[gold] / math.log(2) / scored_bytes
    return {"id": sample["doc_id"], "logprobs": logprobs, "gold": gold, **kept, "bits_per_byte": bits_per_byte}


def _gold(task: Any, doc: Mapping[str, Any], choices: int) -> int:
    """Return the number of the request that is an item's right answer, by the harness's own rules."""
    if choices == 1:
        return 0
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    return task.doc_to_choice(doc).index(gold) if isinstance(gold, str) else int(gold)


def _with_errors(metrics: Mapping[str, Any], samples: list[dict[str, Any]]) -> dict[str, float]:
    """Return the harness's metrics, each with a standard error.

    Means have the harness's own standard error. Perplexity, exp(-mean), has one by the delta method; the harness would
    compute it from a hundred thousand bootstrap samples.
    """
    measured = {}
    for name in [name for name in samples[0] if name not in ("id", "logprobs", "gold")]:
        values = [sample[name] for sample in samples]
        error = mean_stderr(values) if len(values) > 1 else float("nan")
        measured[name] = float(metrics[name]) if name in metrics else float(np.mean(values))
        measured[f"{name}_stderr"] = measured[name] * error if name == "perplexity" else error
    return measured


def _digest_prompts(samples: list[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps([list(pair) for pair in sample["arguments"]]).encode())
    return digest.hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and log lines of the harness and of datasets for the length of a block."""
    import datasets
    import lm_eval.api.task

    logger, bar = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm
    level = logger.level
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    lm_eval.api.task.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = bar
        logger.setLevel(level)
