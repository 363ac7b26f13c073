"""Training speed of train.py's own loop against a bare PyTorch loop, a plain Lightning Trainer and the HF Trainer.

    python -m benchmarks.train                          # 10M-parameter Llama, vocabulary 8k and 32k, fp32 and bf16
    python -m benchmarks.train --vocab 8192 --precision bf16 --blocks 2 --steps 6     # a quick look
    python -m benchmarks.train --device cuda --shape 124m --micro-batch 32

All contestants train the same stock model from the same weights on the same batches with the same AdamW, clipping and
dtype. Their losses over the first steps must agree, else nothing is compared. Each lives in a process of its own and
is let run one at a time; a block is every contestant once, and the order changes from block to block so that nobody
is always first. Between contestants the machine's limit, a square matrix product, is timed: a block in which it
moved is discarded. The figure is the median over blocks of other seconds / our seconds: above 1, ours is faster.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.cases import SHAPES, TrainCase, make_shards
from grow.cli.closed_pipe import ends_with_its_reader
from grow.common.provenance import git_commit, versions

PARITY_STEPS = 20
PARITY_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
CONTESTANTS = ("grow", "bare loop", "lightning", "hf trainer")


@ends_with_its_reader()
def main() -> None:
    """Run every case, print a table, and write the figures as JSON."""
    options = read_options()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as train.py sets it; a waiting contestant must not spin
    results = []
    for vocab in options.vocab:
        for precision in options.precision:
            case = TrainCase(
                shape=options.shape,
                vocab=vocab,
                precision=precision,
                micro_batch=options.micro_batch,
                device=options.device,
                compile=not options.no_compile,
                threads=options.threads,
            )
            results.append(run_case(case, options.blocks, options.steps, options.max_drift))
            show(results[-1])
    figures = {"versions": versions(), "commit": git_commit(), "results": results}
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="10m")
    parser.add_argument("--vocab", type=int, nargs="+", default=[8192, 32000])
    parser.add_argument("--precision", nargs="+", choices=PARITY_TOLERANCE, default=["fp32", "bf16"])
    parser.add_argument("--micro-batch", type=int, default=2, help="sequences a step")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--no-compile", action="store_true", help="nobody compiles; else everybody does")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--blocks", type=int, default=8, help="a multiple of twice the contestants balances the order")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of a contestant in a block")
    parser.add_argument("--max-drift", type=float, default=0.05, help="by how much the limit may move within a block")
    parser.add_argument("--output", help="file for the figures")
    return parser.parse_args()


def run_case(case: TrainCase, blocks: int, steps: int, max_drift: float) -> dict:
    """Start the contestants, check that their losses agree, and let them take turns."""
    with tempfile.TemporaryDirectory() as scratch:
        make_shards(Path(scratch) / "shards", case.vocab)
        workers = {name: Worker(name, case, Path(scratch)) for name in CONTESTANTS}
        try:
            first = {name: worker.run(PARITY_STEPS) for name, worker in workers.items()}
            disagreement = check_parity({name: block["losses"] for name, block in first.items()}, case.precision)
            for worker in workers.values():
                worker.run(2)
            measured = [run_block(workers, number, steps, case) for number in range(blocks)]
        finally:
            for worker in workers.values():
                worker.stop()
    kept = [block for block in measured if block["drift"] <= max_drift]
    return {
        "case": vars(case),
        "loss_disagreement": disagreement,
        "seconds_to_first_steps": {name: block["seconds"] for name, block in first.items()},
        "blocks": measured,
        "blocks_kept": len(kept),
        **(summarise(kept, steps * case.tokens_per_step) if kept else {}),
    }


def run_block(workers: dict[str, "Worker"], number: int, steps: int, case: TrainCase) -> dict:
    """Run every contestant once, in an order that is rotated from block to block and reversed in every other one."""
    shift = number // 2 % len(CONTESTANTS)
    order = CONTESTANTS[shift:] + CONTESTANTS[:shift]
    limits, blocks = [matmul_flops(case)], {}
    for name in order if number % 2 == 0 else reversed(order):
        blocks[name] = workers[name].run(steps)
        limits.append(matmul_flops(case))
    return {
        "seconds": {name: block["seconds"] for name, block in blocks.items()},
        "cpu_seconds": {name: block["cpu_seconds"] for name, block in blocks.items()},
        "limit_tflops": statistics.median(limits) / 1e12,
        "drift": max(limits) / min(limits) - 1,
    }


def summarise(blocks: list[dict], tokens: int) -> dict:
    """Return the speeds, and the ratio to each other contestant with its 95 % bootstrap interval."""
    speeds = {name: [tokens / block["seconds"][name] for block in blocks] for name in CONTESTANTS}
    ratios = {}
    for name in CONTESTANTS[1:]:
        found = np.array([block["seconds"][name] / block["seconds"]["grow"] for block in blocks])
        draws = np.random.default_rng(0).integers(len(found), size=(2000, len(found)))
        low, high = np.quantile(np.median(found[draws], axis=1), (0.025, 0.975))
        ratios[name] = {"median": float(np.median(found)), "low": float(low), "high": float(high)}
    return {
        "tokens_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "best_tokens_per_second": {name: max(values) for name, values in speeds.items()},
        "cpu_seconds_per_kilotoken": {
            name: 1000 * statistics.median(block["cpu_seconds"][name] for block in blocks) / tokens
            for name in CONTESTANTS
        },
        "ratios": ratios,
    }


def check_parity(losses: dict[str, list[float]], precision: str) -> float:
    """Return the largest relative difference of any contestant's loss from ours at any step.

    Raises:
        SystemExit: it is above the tolerance of the precision.
    """
    ours = np.array(losses["grow"])
    worst = max(float(np.max(np.abs(np.array(other) / ours - 1))) for other in losses.values())
    if not worst <= PARITY_TOLERANCE[precision]:
        raise SystemExit(f"No comparison: losses differ by {worst:.2e} in {precision}.\n{json.dumps(losses, indent=1)}")
    return worst


def matmul_flops(case: TrainCase) -> float:
    """Return the FLOP/s of a square product in the case's dtype: the best of a few."""
    import torch

    size = 8192 if case.device == "cuda" else 1024
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    a, best = torch.randn(size, size, device=case.device, dtype=dtype), float("inf")
    for _ in range(12):
        started = time.perf_counter()
        product = a @ a
        product[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


class Worker:
    """A contestant in a process of its own, which trains only while it is asked to."""

    def __init__(self, name: str, case: TrainCase, scratch: Path) -> None:
        from benchmarks.train_contestants import work

        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(name, case, scratch, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, steps: int) -> dict:
        """Take optimizer steps; return their seconds, CPU seconds and losses."""
        self._pipe.send(steps)
        return self._pipe.recv()

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def show(result: dict) -> None:
    """Print one case."""
    from rich.table import Table

    from grow.common.console import table_console

    case = result["case"]
    title = f"{case['shape']}, vocabulary {case['vocab']}, {case['precision']}, {case['device']} x {case['threads']}, "
    title += f"compile {'on' if case['compile'] else 'off'}: {result['blocks_kept']} of {len(result['blocks'])} blocks"
    table = Table("loop", "tokens/s", "best", "CPU s a kilotoken", "ours is faster by", title=title)
    for name in CONTESTANTS if result["blocks_kept"] else ():
        ratio = result["ratios"].get(name)
        table.add_row(
            name,
            f"{result['tokens_per_second'][name]:,.0f}",
            f"{result['best_tokens_per_second'][name]:,.0f}",
            f"{result['cpu_seconds_per_kilotoken'][name]:.3f}",
            "" if ratio is None else f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]",
        )
    table_console().print(table)
    print(f"losses agree to {result['loss_disagreement']:.1e}", flush=True)


if __name__ == "__main__":
    main()
