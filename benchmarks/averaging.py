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
import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.cases import make_random_checkpoint
from benchmarks.forks import in_fresh_process
from grow.cli.closed_pipe import ends_with_its_reader
from grow.common.provenance import git_commit, versions

RUN = (
    *("experiment=demo", "model=tiny_2x", "growth=none", "checkpoint=none", "trainer.threads=1"),
    *("averaging=lawa", "averaging.every_steps=4", "averaging.start_tokens=0", "trainer.max_tokens=106496"),
)


@ends_with_its_reader()
def main() -> None:
    """Make checkpoints, measure, print, and write the figures as JSON."""
    options = read_options()
    figures = {"online": online(), "offline": offline(options), "versions": versions(), "commit": git_commit()}
    print(json.dumps(figures, indent=2))
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pythia_160m", help="model configuration of the checkpoints")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--k", type=int, default=5, help="checkpoints of the offline mean")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", default=None, help="where to put the files")
    parser.add_argument("--output", default=None, help="file for the figures")
    return parser.parse_args()


def offline(options: argparse.Namespace) -> dict[str, object]:
    """Measure the mean of k checkpoints: seconds against reading them, and memory against holding one."""
    import torch

    from benchmarks.averaging_contestants import measure_round, peak_of_average, read_once, size_of

    with tempfile.TemporaryDirectory(dir=options.directory) as scratch:
        sources = [Path(scratch) / f"step-{step}" for step in range(1, options.k + 1)]
        for source in sources:
            make_random_checkpoint(options.model, source, getattr(torch, options.dtype))
        read_once(sources)
        rounds = [measure_round(sources, Path(scratch) / "average", number) for number in range(options.rounds)]
        peak = in_fresh_process(peak_of_average, sources, Path(scratch) / "average")
        size = size_of(sources[0])
    return {
        "checkpoints": options.k,
        "gigabytes_each": round(size / 1e9, 3),
        "median": {name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]},
        "peak_gigabytes": round(peak / 1e9, 3),
        "rounds": rounds,
    }


def online() -> dict[str, float]:
    """Measure a run with a window of 5: time of a snapshot over that of 64 steps, and bytes held over 4 k P."""
    from benchmarks.averaging_contestants import time_run

    with tempfile.TemporaryDirectory() as directory:
        times = in_fresh_process(time_run, [*RUN, f"run_dir={directory}/run"])
    return {
        "snapshot_over_64_steps": statistics.median(times["snapshots"]) / (64 * statistics.median(times["steps"])),
        "held_over_4kP": times["held_bytes"] / (4 * 5 * times["parameters"]),
    }


if __name__ == "__main__":
    main()
