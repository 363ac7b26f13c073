"""What benchmarks/averaging.py times: averaging, its parts, reading alone, and the snapshots of a run."""

import itertools
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.forks import peak_bytes, run_train
from grow.averaging.offline import average_checkpoints, average_tensor, common_tensors
from grow.averaging.settings import AveragingSettings
from grow.averaging.sources import find_sources
from grow.averaging.weighting import uniform
from grow.common.provenance import digest_files
from grow.families.weights import weight_files


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
    """Do what scripts/average_checkpoints.py does."""
    settings = AveragingSettings(name="lawa", kind="lawa", k=len(sources))
    average_checkpoints([str(source) for source in sources], settings, output)


def mean_only(sources: list[Path]) -> float:
    """Return the seconds to read and average, without writing the result or recording what it is of."""
    start = time.perf_counter()
    opened = find_sources([str(source) for source in sources])
    for info in common_tensors(opened):
        for _ in average_tensor(info, opened, uniform(len(opened))):
            pass
    return time.perf_counter() - start


def digest_only(sources: list[Path]) -> float:
    """Return the seconds for the SHA-256 of what is averaged, which average_checkpoints takes in its own thread."""
    start = time.perf_counter()
    for source in sources:
        digest_files(weight_files(source))
    return time.perf_counter() - start


def read_once(sources: list[Path]) -> float:
    """Return the seconds to read every weight file from beginning to end, a few megabytes at a time."""
    buffer = bytearray(2**22)
    start = time.perf_counter()
    for path in (path for source in sources for path in weight_files(source)):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def size_of(source: Path) -> int:
    """Return the bytes of a checkpoint's weight files."""
    return sum(path.stat().st_size for path in weight_files(source))


def peak_of_average(sources: list[Path], output: Path) -> float:
    """Return the bytes by which averaging raises the process's peak memory over its imports."""
    before = peak_bytes()
    average(sources, output)
    return peak_bytes() - before


def time_run(overrides: list[str]) -> dict[str, Any]:
    """Train with an average; return seconds of every snapshot and step, bytes of the window, and parameters."""
    from grow.averaging.average import Average
    from grow.training.loop.callback import LoopCallback

    times: dict[str, Any] = {"snapshots": []}
    stamps: list[float] = []
    push, end_batch = Average.push, LoopCallback.on_train_batch_end

    def timed_push(self: Average, step: int, weights: Mapping[str, torch.Tensor]) -> None:
        start = time.perf_counter()
        push(self, step, weights)
        times["snapshots"].append(time.perf_counter() - start)
        times["held_bytes"] = sum(tensor.nbytes for _, tensor in self.tensors())
        times["parameters"] = sum(tensor.numel() for tensor in weights.values())

    def stamped(self: LoopCallback, trainer: Any, module: Any, *rest: Any) -> None:
        end_batch(self, trainer, module, *rest)
        if module.clock.step > len(stamps):
            stamps.append(time.perf_counter())

    Average.push, LoopCallback.on_train_batch_end = timed_push, stamped
    run_train(overrides)
    times["steps"] = [after - before for before, after in itertools.pairwise(stamps)]
    return times
