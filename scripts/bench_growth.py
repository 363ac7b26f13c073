"""Time and peak memory of growing a checkpoint of random weights, against copying the bytes it writes.

    python scripts/bench_growth.py                          # OLMo-1B to 2.9B, 4.7 GB in, 12.4 GB out
    python scripts/bench_growth.py --source pythia_70m --target "" --rounds 3

Each round grows, then copies the result file by file, both flushed to the disk; the rounds alternate the order. The
figure is the median of the rounds' ratios: both sides share the machine's mood. Verification is not timed.
"""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch

from grow.common.provenance import git_commit, versions
from grow.config import compose
from grow.families.build import load_config, model_on_meta
from grow.families.experts import stored_tensors
from grow.families.registry import family_of, stock_config
from grow.families.weights import TensorInfo, WeightReader, write_weights
from grow.growth.engine import write_grown_weights
from grow.growth.planner import plan_growth
from grow.growth.settings import GrowthSettings, ScaleSettings
from grow.growth.target import scaled_target


def main() -> None:
    """Make a source, measure, print, and write the figures as JSON."""
    options = read_options()
    with tempfile.TemporaryDirectory(dir=options.directory) as scratch:
        source = Path(scratch) / "source"
        make_random_checkpoint(options.source, source, getattr(torch, options.dtype))
        rounds = [measure_round(options, source, Path(scratch), number) for number in range(options.rounds)]
    figures = summarise(rounds)
    print(json.dumps(figures, indent=2))
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="olmo_1b", help="model configuration of the source")
    parser.add_argument("--target", default="olmo_2.9b", help="model configuration of the target; empty doubles widths")
    parser.add_argument("--growth", default="hyperclone_noisy")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--directory", default=None, help="where to put the files; its disk is what is measured")
    parser.add_argument("--output", default=None, help="file for the figures")
    return parser.parse_args()


def make_random_checkpoint(model: str, directory: Path, dtype: torch.dtype) -> None:
    """A stock checkpoint of random weights, written without ever holding the model."""
    config = stock_config(compose([f"model={model}", "data.sequence_length=64"]).model)
    config.dtype = dtype
    family = family_of(config.model_type)
    shapes = stored_tensors(family, model_on_meta(config))
    tensors = [TensorInfo(name=name, shape=shape, dtype=dtype) for name, shape in shapes.items()]
    directory.mkdir()
    config.save_pretrained(directory)
    write_weights(directory, tensors, (torch.randn(info.shape, dtype=dtype) * 0.02 for info in tensors))


def measure_round(options: argparse.Namespace, source: Path, scratch: Path, number: int) -> dict[str, float]:
    """Grow and copy once each; the copy of an earlier growth comes first in odd rounds."""
    grown, copied = scratch / "grown", scratch / "copied"
    seconds, peak, largest = in_fresh_process(grow_once, source, grown, options.target, options.growth)
    size = sum(path.stat().st_size for path in grown.iterdir())
    copy_seconds = copy_flushed(grown, copied)
    if number % 2:  # the other order: copy first, then grow
        shutil.rmtree(copied)
        copy_seconds = copy_flushed(grown, copied)
        shutil.rmtree(grown)
        seconds, peak, largest = in_fresh_process(grow_once, source, grown, options.target, options.growth)
    shutil.rmtree(grown)
    shutil.rmtree(copied)
    return {
        "grow_seconds": seconds,
        "copy_seconds": copy_seconds,
        "ratio": seconds / copy_seconds,
        "gigabytes_written": size / 1e9,
        "peak_gigabytes": peak / 1e9,
        "largest_tensor_gigabytes": largest / 1e9,
    }


def grow_once(source: Path, output: Path, target: str, growth: str) -> tuple[float, float, float]:
    """Seconds, growth of the process's peak memory in bytes over its imports, bytes of the largest tensor."""
    config = load_config(source)
    settings = compose([f"growth={growth}", f"growth.source={source}"]).growth or GrowthSettings(name="none")
    named = f"model={target}" if target else ""
    wanted = stock_config(compose([named, "data.sequence_length=64"]).model) if named else None
    before = peak_bytes()
    start = time.perf_counter()
    reader = WeightReader(source)
    plan = plan_growth(reader, config, wanted or scaled_target(config, ScaleSettings()), settings)
    output.mkdir()
    write_grown_weights(plan, [reader], output, seed=0)
    seconds = time.perf_counter() - start
    return seconds, peak_bytes() - before, max(tensor.target.bytes for tensor in plan.tensors)


def peak_bytes() -> float:
    """Most memory this program ever had; getrusage would count what the parent had when it started this process."""
    status = Path("/proc/self/status").read_text()
    return float(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def in_fresh_process(task, *arguments):
    """Peak memory is a process's own, so each growth gets a new one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(task, arguments)


def copy_flushed(source: Path, target: Path) -> float:
    """Seconds to copy a directory's files and flush them to the disk, as growth does with what it writes."""
    target.mkdir()
    start = time.perf_counter()
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)
        with (target / path.name).open("rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - start


def summarise(rounds: list[dict[str, float]]) -> dict[str, object]:
    return {
        "median": {name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]},
        "rounds": rounds,
        "versions": versions(),
        "commit": git_commit(),
    }


if __name__ == "__main__":
    main()
