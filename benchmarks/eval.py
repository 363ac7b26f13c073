"""Items a second of Grow's evaluation against lm-evaluation-harness's own `hf` model at its best batch size.

    python -m benchmarks.eval --checkpoint outputs/RUN/model --data-dir data/eval
    python -m benchmarks.eval --checkpoint DIR --limit 40 --rounds 2 --batch-sizes 4 16      # a quick look
    python -m benchmarks.eval --checkpoint DIR --device cuda --dtype bfloat16 --limit 1000 --batch-sizes 16 64 256

Both run the same tasks, zero-shot, on the same items with the same model object in one process, through the harness's
own `evaluate`: tokenizing, scoring and metrics are timed, reading items is not. The harness's batch size is swept
first, on the same items; then the two take turns, and who is first changes from round to round. The figure is the
median over rounds of their seconds / our seconds: above 1, Grow is faster. Scores are compared item by item: nothing
is printed for a pair that disagrees.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from grow.common.provenance import git_commit, versions

TASKS = ["arc_easy", "arc_challenge", "hellaswag", "lambada_openai", "piqa", "winogrande", "sciq", "openbookqa"]
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}  # nats of one choice; the harness sums bfloat16 log-probabilities
DECISIONS = {"float32": 1.0, "bfloat16": 0.98}  # share of per-item metrics that must agree


def main() -> None:
    """Sweep, take turns, compare, and print and write the figures."""
    options = read_options()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    bench = Bench(options)
    sweep = {size: bench.theirs(size)[0] for size in options.batch_sizes}
    best = min(sweep, key=sweep.get)
    print(f"the harness's seconds by batch size: {_rounded(sweep)}; best: {best}", flush=True)
    bench.ours()  # as warm as the other side
    rounds = [run_round(bench, best, number) for number in range(options.rounds)]
    figures = summarise(rounds, bench.items(), sweep, best, options)
    print(json.dumps({key: figures[key] for key in ("ratio", "ratios", "items", "scores")}, indent=2))
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="directory of a model with its tokenizer")
    parser.add_argument("--data-dir", default="data/eval")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--limit", type=int, default=100, help="items of each task")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--batch-tokens", type=int, help="of Grow; by default what eval.py takes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=TOLERANCE, default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", help="file for the figures")
    return parser.parse_args()


class Bench:
    """One model, the tasks' items in memory, and the two ways to evaluate it."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch
        from lm_eval.tasks import TaskManager

        from grow.data.tokenizer import load_tokenizer
        from grow.evaluation.data import EvaluationData
        from grow.evaluation.evaluate import BATCH_TOKENS
        from grow.evaluation.harness import quiet
        from grow.families.build import load_model

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
        """Items that one evaluation answers."""
        return sum(min(self.limit, len(task.eval_docs)) for task in self.loaded["tasks"].values())

    def ours(self) -> tuple[float, dict]:
        from grow.evaluation.harness_model import HarnessModel
        from grow.evaluation.scoring import Scorer

        scorer = Scorer(model=self.model, device=self.device)
        model = HarnessModel(scorer, self.tokenizer, batch_tokens=self.batch_tokens, progress=lambda done, total: None)
        return self._evaluate(model)

    def theirs(self, batch_size: int) -> tuple[float, dict]:
        from lm_eval.models.huggingface import HFLM

        return self._evaluate(HFLM(pretrained=self.model, tokenizer=self.tokenizer, batch_size=batch_size))

    def _evaluate(self, model) -> tuple[float, dict]:
        """Seconds and samples. Ours runs one task after the other, as eval.py does; so does theirs."""
        import lm_eval.evaluator
        import torch

        from grow.evaluation.harness import quiet

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


def run_round(bench: Bench, batch_size: int, number: int) -> dict:
    """Both sides once; odd rounds begin with the harness."""
    sides = {"ours": bench.ours, "theirs": lambda: bench.theirs(batch_size)}
    order = list(sides) if number % 2 == 0 else list(reversed(sides))
    found = {side: sides[side]() for side in order}
    seconds = {side: answer[0] for side, answer in found.items()}
    scores = compare(found["ours"][1], found["theirs"][1])
    print(f"round {number}: {_rounded(seconds)}, {scores}", flush=True)
    return {**seconds, "ratio": seconds["theirs"] / seconds["ours"], "scores": scores}


def compare(ours: dict, theirs: dict) -> dict:
    """Largest difference of a choice's log-probability, and the share of per-item metrics that agree."""
    differences, equal, decisions = [0.0], 0, 0
    for task, samples in ours.items():
        for own, other in zip(samples, theirs[task], strict=True):
            pairs = zip(own["filtered_resps"], other["filtered_resps"], strict=True)
            differences += [abs(float(mine[0]) - float(your[0])) for mine, your in pairs]
            names = [name for name in own["metrics"] if name != "perplexity"]
            equal += sum(own[name] == other[name] for name in names)
            decisions += len(names)
    return {"max_logprob_difference": max(differences), "equal_decisions": equal / decisions}


def summarise(rounds: list[dict], items: int, sweep: dict, best: int, options: argparse.Namespace) -> dict:
    scores = {
        "max_logprob_difference": max(each["scores"]["max_logprob_difference"] for each in rounds),
        "equal_decisions": min(each["scores"]["equal_decisions"] for each in rounds),
    }
    agree = scores["max_logprob_difference"] <= TOLERANCE[options.dtype]
    if not agree or scores["equal_decisions"] < DECISIONS[options.dtype]:
        raise SystemExit(f"the scores disagree, so nothing is compared: {scores}")
    return {
        "ratio": round(statistics.median(each["ratio"] for each in rounds), 3),
        "ratios": [round(each["ratio"], 3) for each in rounds],
        "items": items,
        "scores": scores,
        "best_batch_size": best,
        "sweep_seconds": sweep,
        "rounds": rounds,
        "options": vars(options),
        "versions": versions(),
        "commit": git_commit(),
    }


def _rounded(seconds: dict) -> dict:
    return {key: round(value, 2) for key, value in seconds.items()}


if __name__ == "__main__":
    main()
