"""Runs the harness's tasks on a model in memory, one after the other; a task that was finished before is read back."""

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
from grow.common.provenance import digest_json, read_json, write_json
from grow.distributed.processes import from_first, is_first
from grow.evaluation.data import EvaluationData
from grow.evaluation.harness_model import HarnessModel
from grow.evaluation.scoring import Scorer
from grow.evaluation.settings import EvaluationSettings

FEWSHOT_SEED = 1234  # the harness's own default
Watch = Callable[[str, int, int], None]
"""Called with a task, the requests answered so far, and all of them."""


@dataclass(kw_only=True, slots=True)
class TaskResult:
    """What one task says of a model."""

    task: str
    version: float | str
    items: int
    metrics: dict[str, float]
    """acc, acc_norm, perplexity, bits_per_byte, as far as the task has them; each with its NAME_stderr."""
    prompts_sha256: str
    """Of every context and continuation that was scored, in order."""
    samples: list[dict[str, Any]] = field(default_factory=list)
    """Each item: its id, the log-probability of each choice in nats, and its own metrics."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """Results of tasks that are done, on disk: a killed evaluation continues at the next task.

    Args:
        directory: of the files, one a task.
        key: digest of what the results depend on beside the task: weights, tokenizer, precision, ...
    """

    directory: Path
    key: str

    def load(self, task: str, digest: str) -> TaskResult | None:
        """The result of a task, if it was made from the same model, items and settings."""
        try:
            content = read_json(self.directory / f"{task}.json")
        except CheckpointError:
            return None
        return TaskResult(**content["result"]) if content.get("key") == self._key_of(digest) else None

    def save(self, result: TaskResult, digest: str) -> None:
        """Keep the result of a task."""
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
    watch: Watch,
    finished: Finished | None = None,
) -> dict[str, TaskResult]:
    """The results of every task of the settings. All ranks call this and get the same.

    Args:
        scorer: the model.
        tokenizer: its tokenizer.
        settings: which tasks, and how many items and examples.
        data: the items; checked by the caller.
        batch_tokens: places of a batch.
        watch: told about progress.
        finished: where results are kept.
    """
    results = {}
    with tempfile.TemporaryDirectory() as scratch, quiet():
        data.write_task_files(settings.tasks, Path(scratch))
        manager = TaskManager(include_path=scratch, include_defaults=False)
        for name in settings.tasks:
            loaded = manager.load([name])
            version = (loaded["tasks"][name].config.metadata or {}).get("version")
            digest = digest_json([name, version, data.digest(name), settings.num_fewshot, settings.limit])
            result = from_first(finished.load(name, digest) if finished and is_first() else None)
            if result is None:
                model = HarnessModel(
                    scorer,
                    tokenizer,
                    batch_tokens=batch_tokens,
                    progress=partial(watch, name),
                )
                result = _run(name, loaded, model, settings)
                if finished is not None and is_first():
                    finished.save(result, digest)
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
    """What is kept of an item. Bits per byte are those of the right answer as it was scored, its leading space too."""
    logprobs = [float(answer[0]) for answer in sample["filtered_resps"]]
    gold = _gold(task, sample["doc"], len(logprobs))
    scored_bytes = len(sample["arguments"][gold][1].encode())
    kept = {name: float(sample[name]) for name in sample["metrics"]}
    bits_per_byte = -logprobs[gold] / math.log(2) / scored_bytes
    return {"id": sample["doc_id"], "logprobs": logprobs, "gold": gold, **kept, "bits_per_byte": bits_per_byte}


def _gold(task: Any, doc: Mapping[str, Any], choices: int) -> int:
    """Which of an item's requests is the right answer, by the harness's own rules."""
    if choices == 1:
        return 0
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    return task.doc_to_choice(doc).index(gold) if isinstance(gold, str) else int(gold)


def _with_errors(metrics: Mapping[str, Any], samples: list[dict[str, Any]]) -> dict[str, float]:
    """The harness's values with standard errors: of means as the harness computes them; of exp(-mean) by the delta
    method, where the harness would draw a hundred thousand bootstrap samples."""
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
    """Keep the harness's and datasets' own bars and notes off the terminal."""
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
