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
import json
import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from grow.cli.closed_pipe import ends_with_its_reader
from grow.common.provenance import git_commit, versions

if TYPE_CHECKING:
    from benchmarks.eval_contestants import Contestants

TASKS = ["arc_easy", "arc_challenge", "hellaswag", "lambada_openai", "piqa", "winogrande", "sciq", "openbookqa"]
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}  # nats of one choice: the harness sums bfloat16 log-probabilities
DECISIONS = {"float32": 1.0, "bfloat16": 0.98}  # share of per-item metrics that must agree


@ends_with_its_reader()
def main() -> None:
    """Sweep, take turns, compare, and print and write the figures."""
    options = read_options()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    from benchmarks.eval_contestants import Contestants  # once the environment says how many threads there are

    contestants = Contestants(options)
    sweep = {size: contestants.theirs(size)[0] for size in options.batch_sizes}
    best = min(sweep, key=sweep.get)
    print(f"the harness's seconds by batch size: {_rounded(sweep)}; best: {best}", flush=True)
    contestants.ours()  # as warm as the other side
    rounds = [run_round(contestants, best, number) for number in range(options.rounds)]
    figures = summarise(rounds, contestants.items(), sweep, best, options)
    print(json.dumps({key: figures[key] for key in ("ratio", "ratios", "items", "scores")}, indent=2))
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="directory of a model with its tokenizer")
    parser.add_argument("--data-dir", default="data/eval")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--limit", type=int, default=100, help="items of each task")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--batch-tokens", type=int, help="tokens of one batch of Grow's; by default what eval.py takes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=TOLERANCE, default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", help="file for the figures")
    return parser.parse_args()


def run_round(contestants: "Contestants", batch_size: int, number: int) -> dict:
    """Run both sides once; odd rounds begin with the harness."""
    sides = {"ours": contestants.ours, "theirs": lambda: contestants.theirs(batch_size)}
    order = list(sides) if number % 2 == 0 else list(reversed(sides))
    found = {side: sides[side]() for side in order}
    seconds = {side: answer[0] for side, answer in found.items()}
    scores = compare(found["ours"][1], found["theirs"][1])
    print(f"round {number}: {_rounded(seconds)}, {scores}", flush=True)
    return {**seconds, "ratio": seconds["theirs"] / seconds["ours"], "scores": scores}


def compare(ours: dict, theirs: dict) -> dict:
    """Return the largest difference of a choice's log-probability, and the share of per-item metrics that agree."""
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
    """Return the figures of all rounds.

    Raises:
        SystemExit: the two sides do not agree on the items' scores.
    """
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
