"""The contestants of benchmarks/eval.py: Grow's evaluation and the harness's own, of one model in one process."""

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path

import lm_eval.evaluator
import torch
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from grow.data.tokenizer import load_tokenizer
from grow.evaluation.data import EvaluationData
from grow.evaluation.evaluate import BATCH_TOKENS
from grow.evaluation.harness import quiet
from grow.evaluation.harness_model import HarnessModel
from grow.evaluation.scoring import Scorer
from grow.families.build import load_model


class Contestants:
    """One model, the tasks' items in memory, and the two ways to evaluate it."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.set_num_threads(options.threads)
        self.device, self.limit = torch.device(options.device), options.limit
        self.batch_tokens = options.batch_tokens or BATCH_TOKENS[options.device]
        self.tokenizer = load_tokenizer(options.checkpoint)
        self.model = load_model(Path(options.checkpoint), getattr(torch, options.dtype)).to(self.device).eval()
        data = EvaluationData.open(options.data_dir)
        data.check(options.tasks)
        with tempfile.TemporaryDirectory() as scratch, quiet():
            data.write_task_files(options.tasks, Path(scratch))
            self.loaded = TaskManager(include_path=scratch, include_defaults=False).load(options.tasks)
        for task in self.loaded["tasks"].values():
            task.set_config(key="num_fewshot", value=0)

    def items(self) -> int:
        """Return how many items one evaluation answers."""
        return sum(min(self.limit, len(task.eval_docs)) for task in self.loaded["tasks"].values())

    def ours(self) -> tuple[float, dict]:
        """Evaluate as eval.py does; return seconds and samples."""
        scorer = Scorer(model=self.model, device=self.device)
        model = HarnessModel(scorer, self.tokenizer, batch_tokens=self.batch_tokens, progress=lambda done, total: None)
        return self._evaluate(model)

    def theirs(self, batch_size: int) -> tuple[float, dict]:
        """Evaluate with the harness's own `hf` model; return seconds and samples."""
        return self._evaluate(HFLM(pretrained=self.model, tokenizer=self.tokenizer, batch_size=batch_size))

    def _evaluate(self, model: LM) -> tuple[float, dict]:
        """Run one task after the other, as eval.py does, on both sides; return seconds and samples."""
        samples = {}
        with quiet(), contextlib.redirect_stderr(io.StringIO()):  # the harness's bars
            started = time.perf_counter()
            for name, task in self.loaded["tasks"].items():
                task._instances = None
                one = {"tasks": {name: task}, "groups": {}, "group_map": {}}
                samples |= lm_eval.evaluator.evaluate(model, one, limit=self.limit, bootstrap_iters=0)["samples"]
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - started, samples
