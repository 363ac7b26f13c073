"""What averaging costs: an offline mean of checkpoints against reading the same files once.

    python scripts/bench_averaging.py                                # 5 checkpoints of Pythia-160M's shapes, float32
    python scripts/bench_averaging.py --model pythia_70m --k 3 --rounds 3 --output figures.json

Each round does both, in alternating order, with the files in the page cache: the disk, the same for both, is not what
is measured. `average` is the whole command (digests of what is averaged, the result flushed to the disk), `mean` is
reading and arithmetic alone; figures are medians over the rounds. Peak memory is a fresh process's, beyond its imports.

The cost of averaging inside a run, per step and in bytes held, belongs in `online` below.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from bench_growth import in_fresh_process, make_random_checkpoint, peak_bytes

from grow.averaging.offline import average_checkpoints, average_tensor, common_tensors
from grow.averaging.settings import AveragingSettings
from grow.averaging.sources import find_sources
from grow.averaging.weights import uniform
from grow.common.provenance import digest_files, git_commit, versions
from grow.families.weights import weight_files


def main() -> None:
    """Make checkpoints, measure, print, and write the figures as JSON."""
    options = read_options()
    figures = {"offline": offline(options), "versions": versions(), "commit": git_commit()}
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
