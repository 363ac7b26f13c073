"""What averaging costs: a snapshot against the steps between two of them, an offline mean against reading its files.

    python -m benchmarks.averaging                                # 5 checkpoints of Pythia-160M's shapes, float32
    python -m benchmarks.averaging --model pythia_70m --k 3 --rounds 3 --output figures.json

Each round does both, in alternating order, with the files in the page cache: the disk, the same for both, is not what
is measured. `average` is the whole command (digests of what is averaged, the result flushed to the disk), `mean` is
reading and arithmetic alone; figures are medians over the rounds. Peak memory is a fresh process's, beyond its imports.

Inside a run: the demo's model takes a snapshot every fourth step; the time of a snapshot is set against that of 64
steps of the same run (nu = 64), and what is held against 4 k P bytes.
"""

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # train.py is a file, not a package

import torch

from benchmarks.growth import in_fresh_process, make_random_checkpoint, peak_bytes
from grow.averaging.offline import average_checkpoints, average_tensor, common_tensors
from grow.averaging.settings import AveragingSettings
from grow.averaging.sources import find_sources
from grow.averaging.weighting import uniform
from grow.common.provenance import digest_files, git_commit, versions
from grow.families.weights import weight_files


def main() -> None:
    """Make checkpoints, measure, print, and write the figures as JSON."""
    options = read_options()
    figures = {"online": online(), "offline": offline(options), "versions": versions(), "commit": git_commit()}
    print(json.dumps(figures, indent=2))
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pythia_160m", help="model configuration of the checkpoints")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", default=None, help="where to put the files")
    parser.add_argument("--output", default=None, help="file for the figures")
    return parser.parse_args()


def offline(options: argparse.Namespace) -> dict[str, object]:
    """The mean of k checkpoints: seconds against reading them, and memory against holding one."""
    with tempfile.TemporaryDirectory(dir=options.directory) as scratch:
        sources = [Path(scratch) / f"step-{step}" for step in range(1, options.k + 1)]
        for source in sources:
            make_random_checkpoint(options.model, source, getattr(torch, options.dtype))
        read_once(sources)
        rounds = [measure_round(sources, Path(scratch) / "average", number) for number in range(options.rounds)]
        peak = in_fresh_process(peak_of_average, sources, Path(scratch) / "average")
        size = sum(path.stat().st_size for path in weight_files(sources[0]))
    return {
        "checkpoints": options.k,
        "gigabytes_each": round(size / 1e9, 3),
        "median": {name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]},
        "peak_gigabytes": round(peak / 1e9, 3),
        "rounds": rounds,
    }


def online() -> dict[str, float]:
    """A run with a window of 5: time of a snapshot over that of 64 steps, and bytes held over 4 k P."""
    overrides = ["experiment=demo", "model=tiny_2x", "growth=none", "checkpoint=none", "trainer.threads=1"]
    overrides += ["averaging=lawa", "averaging.every_steps=4", "averaging.start_tokens=0", "trainer.max_tokens=106496"]
    with tempfile.TemporaryDirectory() as directory:
        times = in_fresh_process(run_and_time, [*overrides, f"run_dir={directory}/run"])
    return {
        "snapshot_over_64_steps": statistics.median(times["snapshots"]) / (64 * statistics.median(times["steps"])),
        "held_over_4kP": times["held_bytes"] / (4 * 5 * times["parameters"]),
    }


def run_and_time(overrides: list[str]) -> dict[str, Any]:
    """Train with an average; seconds of every snapshot and every step, bytes that the window holds."""
    import lightning.pytorch as L

    import train
    from grow.averaging.average import Average
    from grow.cli.config import compose
    from grow.training.loop import callback

    times: dict[str, Any] = {"snapshots": [], "steps": []}
    push, stamps = Average.push, []

    def timed_push(self: Average, step: int, weights: Mapping[str, torch.Tensor]) -> None:
        start = time.perf_counter()
        push(self, step, weights)
        times["snapshots"].append(time.perf_counter() - start)
        times["held_bytes"] = sum(tensor.nbytes for _, tensor in self.tensors())
        times["parameters"] = sum(tensor.numel() for tensor in weights.values())

    original = callback.LoopCallback.on_train_batch_end

    def stamped(self: L.Callback, trainer: L.Trainer, module: L.LightningModule, *rest: Any) -> None:
        original(self, trainer, module, *rest)
        if module.clock.step > len(stamps):
            stamps.append(time.perf_counter())

    Average.push, callback.LoopCallback.on_train_batch_end = timed_push, stamped
    train.main.__wrapped__(compose(overrides))
    times["steps"] = [after - before for before, after in itertools.pairwise(stamps)]
    return times


def measure_round(sources: list[Path], output: Path, number: int) -> dict[str, float]:
    """Average and read once each; odd rounds read first."""
    read_seconds = read_once(sources) if number % 2 else 0.0
    start = time.perf_counter()
    average(sources, output)
    average_seconds = time.perf_counter() - start
    shutil.rmtree(output)
    read_seconds = read_seconds or read_once(sources)
    mean_seconds, digest_seconds = mean_only(sources), digest_only(sources)
    return {
        "average_seconds": average_seconds,
        "mean_seconds": mean_seconds,
        "digest_seconds": digest_seconds,
        "read_seconds": read_seconds,
        "average_over_read": average_seconds / read_seconds,
        "mean_over_read": mean_seconds / read_seconds,
    }


def average(sources: list[Path], output: Path) -> None:
    settings = AveragingSettings(name="lawa", kind="lawa", k=len(sources))
    average_checkpoints([str(source) for source in sources], settings, output)


def mean_only(sources: list[Path]) -> float:
    """Seconds to read and average, without writing the result or recording what it is of."""
    start = time.perf_counter()
    opened = find_sources([str(source) for source in sources])
    for info in common_tensors(opened):
        for _ in average_tensor(info, opened, uniform(len(opened))):
            pass
    return time.perf_counter() - start


def digest_only(sources: list[Path]) -> float:
    """Seconds for the SHA-256 of what is averaged, which average_checkpoints takes in a thread of its own."""
    start = time.perf_counter()
    for source in sources:
        digest_files(weight_files(source))
    return time.perf_counter() - start


def read_once(sources: list[Path]) -> float:
    """Seconds to read every weight file from beginning to end, a few megabytes at a time."""
    buffer = bytearray(2**22)
    start = time.perf_counter()
    for path in (path for source in sources for path in weight_files(source)):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def peak_of_average(sources: list[Path], output: Path) -> float:
    """Bytes by which averaging raises the process's peak memory over its imports."""
    before = peak_bytes()
    average(sources, output)
    return peak_bytes() - before


if __name__ == "__main__":
    main()
