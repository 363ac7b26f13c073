"""What benchmarks/merge.py times: a merge, and reading its models and writing as many bytes as its result."""

import os
import shutil
import time
from pathlib import Path

from benchmarks.forks import peak_bytes
from grow.cli.config import compose
from grow.families.weights import weight_files
from grow.merging.merge_models import merge_models
from grow.merging.settings import MergeConfig


def measure_round(sources: list[Path], output: Path, merging: str, workers: int, number: int) -> dict[str, float]:
    """Merge and copy once each; odd rounds copy first."""
    copy_seconds = read_and_write(sources, output) if number % 2 else 0.0
    start = time.perf_counter()
    merge(sources, output, merging, workers)
    merge_seconds = time.perf_counter() - start
    shutil.rmtree(output)
    copy_seconds = copy_seconds or read_and_write(sources, output)
    return {
        "merge_seconds": merge_seconds,
        "copy_seconds": copy_seconds,
        "merge_over_copy": merge_seconds / copy_seconds,
    }


def merge(sources: list[Path], output: Path, merging: str, workers: int) -> None:
    """Do what scripts/merge.py does; the first source is the base."""
    base, *models = map(str, sources)
    overrides = [f"merging={merging}", f"base={base}", "models=[M]", "output=O", "merging.unrelated=true"]
    settings = compose(overrides, "merge", MergeConfig).merging
    merge_models(base, models, settings, output, workers=workers)


def read_and_write(sources: list[Path], output: Path) -> float:
    """Return the seconds to read all models once and to write one of them, flushed to the disk."""
    buffer = bytearray(2**22)
    start = time.perf_counter()
    with output.open("wb") as written:
        for place, path in ((place, path) for place, source in enumerate(sources) for path in weight_files(source)):
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    if place == 0:
                        written.write(memoryview(buffer)[:count])
        written.flush()
        os.fsync(written.fileno())
    seconds = time.perf_counter() - start
    output.unlink()
    return seconds


def peak_of_merge(sources: list[Path], output: Path, merging: str, workers: int) -> float:
    """Return the bytes by which merging raises the process's peak memory over its imports."""
    before = peak_bytes()
    merge(sources, output, merging, workers)
    return peak_bytes() - before
