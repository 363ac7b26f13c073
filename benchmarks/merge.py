"""What a merge costs: time against reading its models and writing its result once, and memory.

    python -m benchmarks.merge                            # three models of Pythia-160M's shapes, bfloat16
    python -m benchmarks.merge --model olmo_1b --merging ties --rounds 3 --output figures.json

The files are in the page cache: the disk, the same for both, is not what is measured. Figures are medians over
rounds in alternating order. Peak memory is a fresh process's, beyond its imports.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.cases import make_random_checkpoint
from benchmarks.forks import in_fresh_process
from grow.common.provenance import git_commit, versions


def main() -> None:
    """Make models, measure, print, and write the figures as JSON."""
    options = read_options()
    figures = {**measure(options), "versions": versions(), "commit": git_commit()}
    print(json.dumps(figures, indent=2))
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pythia_160m", help="model configuration of base and models")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--models", type=int, default=3, help="models besides the base")
    parser.add_argument("--merging", default="dare_ties", help="preset of configs/merging")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", default=None, help="where to put the files")
    parser.add_argument("--output", default=None, help="file for the figures")
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Measure merging against reading and writing the same bytes, in rounds, and its memory."""
    import torch

    from benchmarks.merge_contestants import measure_round, peak_of_merge

    with tempfile.TemporaryDirectory(dir=options.directory) as scratch:
        sources = [Path(scratch) / f"model{place}" for place in range(options.models + 1)]
        for source in sources:
            make_random_checkpoint(options.model, source, getattr(torch, options.dtype))
        output = Path(scratch) / "merged"
        how = (options.merging, options.workers)
        rounds = [measure_round(sources, output, *how, number) for number in range(options.rounds)]
        peak = in_fresh_process(peak_of_merge, sources, output, *how)
    return {
        "merging": options.merging,
        "median": {name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]},
        "peak_gigabytes": round(peak / 1e9, 3),
        "rounds": rounds,
    }


if __name__ == "__main__":
    main()
