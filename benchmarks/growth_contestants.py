"""What benchmarks/growth.py times, each in a process of its own: copying, Grow, and peers under their own Python.

    python -m benchmarks.growth_contestants NAME SOURCE OUTPUT '{"option": ...}'

Imports first, then "ready" on a line, then the work, flushed to the disk, then its figures as JSON on a line. Only what
a contestant needs is imported, so that a peer's environment need not have what Grow needs.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.forks import peak_bytes
from grow.cli.closed_pipe import ends_with_its_reader

Work = Callable[[], dict[str, float] | None]


@ends_with_its_reader()
def main() -> None:
    """Prepare one contestant, say so, run it, and print its figures."""
    asked = read_options()
    output = asked.output
    work = CONTESTANTS[asked.name](asked.source, output, asked.options)
    before = peak_bytes()
    print("ready", flush=True)
    start = time.perf_counter()
    figures = work() or {}
    for path in output.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in output.iterdir())
    print(json.dumps({"seconds": seconds, "bytes": size, "peak": peak_bytes() - before, **figures}), flush=True)


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(CONTESTANTS))
    parser.add_argument("source", type=Path, help="directory of the checkpoint to grow")
    parser.add_argument("output", type=Path, help="directory to make")
    parser.add_argument("options", type=json.loads, help="JSON: growth, scale, workers, shard_gb and code")
    return parser.parse_args()


def copy(source: Path, output: Path, options: dict[str, Any]) -> Work:
    """Copy the files of a directory into another one."""

    def work() -> None:
        output.mkdir()
        for path in source.iterdir():
            shutil.copyfile(path, output / path.name)

    return work


def grow(source: Path, output: Path, options: dict[str, Any]) -> Work:
    """Do all that scripts/grow_checkpoint.py does: digests of the source, the weights, the proof."""
    from grow.families.build import load_config
    from grow.growth import run
    from grow.growth.settings import GrowthSettings, ScaleSettings
    from grow.growth.target import scaled_target

    growth = GrowthSettings(**options["growth"])
    target = scaled_target(load_config(source), ScaleSettings(**options["scale"]))
    writing = run.write_missing_files
    figures = {}

    def timed(files, *arguments) -> None:
        start = time.perf_counter()
        writing(files, *arguments)
        figures["writing"] = time.perf_counter() - start
        figures["largest"] = max(info.bytes for tensors in files.values() for info in tensors)

    def work() -> dict[str, float]:
        run.write_missing_files = timed
        bytes_of_file = round(options["shard_gb"] * 1e9)
        run.grow(str(source), output, growth, target, max_shard_bytes=bytes_of_file, workers=options["workers"])
        return figures

    return work


def mergekit(source: Path, output: Path, options: dict[str, Any]) -> Work:
    """Run mergekit's passthrough of whole copies of the layers, one above the other."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    layers = json.loads((source / "config.json").read_text())["num_hidden_layers"]
    part = {"sources": [{"model": str(source), "layer_range": [0, layers]}]}
    recipe = {"slices": [part] * round(options["scale"]["layers"]), "merge_method": "passthrough", "dtype": "bfloat16"}
    settings = MergeOptions(copy_tokenizer=False, quiet=True, num_threads=options["workers"])
    return lambda: run_merge(MergeConfiguration.model_validate(recipe), str(output), options=settings)


def hypercloning(source: Path, output: Path, options: dict[str, Any]) -> Work:
    """Run apple/ml-hypercloning's cloneModel between from_pretrained and save_pretrained."""
    sys.path.insert(0, options["code"])
    import torch
    from hypercloning import cloneModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(options["workers"])
    scale = options["scale"]

    def work() -> None:
        model = AutoModelForCausalLM.from_pretrained(source, torch_dtype=torch.bfloat16, trust_remote_code=False)
        cloned = cloneModel(
            model, embedding_dim_multiplier=round(scale["embed"]), up_project_multiplier=round(scale["ffn"])
        )
        cloned.save_pretrained(output)

    return work


CONTESTANTS = {"copy": copy, "grow": grow, "mergekit": mergekit, "hypercloning": hypercloning}

if __name__ == "__main__":
    main()
