"""ZeRO through train.py's loop against the bare DeepSpeed engine, and what a checkpoint costs a run.

    python -m benchmarks.distributed                     # ZeRO-2, two processes on a CPU
    python -m benchmarks.distributed --strategy zero3

Both train the same model on the same batches with the same engine settings, in rounds that alternate; what is
reported are ratios of median step times, never times.
"""

import argparse
import itertools
import json
import random
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.forks import fork_ranks, import_everything, wait
from grow.cli.closed_pipe import ends_with_its_reader

SHAPE = (
    *("model=tiny_2x", "growth=none", "data.sequence_length=128", "trainer.accelerator=cpu", "seed=0"),
    *("trainer.micro_batch=2", "trainer.tokens_per_step=2048", "trainer.val_tokens=128", "trainer.log_every_steps=50"),
    *("trainer.val_every_tokens=1000000000", "schedule.warmup_tokens=0"),
)
WARM_UP_STEPS = 3


@ends_with_its_reader()
def main() -> None:
    """Alternate the contestants, then measure saves; print what was found."""
    options = read_options()
    import_everything()
    overrides = [*SHAPE, f"strategy={options.strategy}", f"trainer.max_tokens={2048 * options.steps}"]
    with tempfile.TemporaryDirectory() as directory:
        measure = partial(step_seconds, Path(directory), overrides, options.processes)
        ratios = [run_round(measure, number) for number in range(options.rounds)]
        low, high = interval(ratios)
        ratio = f"{statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}]"
        print(f"{options.strategy}, {options.processes} processes: {ratio}")
        report_stalls(measure)


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", default="zero2", choices=("zero1", "zero2", "zero3"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of a contestant in a round")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def run_round(measure: Callable[..., list[float]], number: int) -> float:
    """Run both contestants once, the other one first every other round, and return the ratio of their step times."""
    contestants = ["grow", "bare"][:: 1 if number % 2 else -1]
    medians = {name: statistics.median(measure(name)) for name in contestants}
    ratio = medians["grow"] / medians["bare"]
    print(f"round {number + 1}: step time of train.py / bare engine = {ratio:.3f}", flush=True)
    return ratio


def interval(ratios: list[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    return medians[49], medians[1949]


def report_stalls(measure: Callable[..., list[float]]) -> None:
    """Print by how much a save slows down the step it falls into, and the steps while the rest of it is written."""
    quiet = statistics.median(measure("grow"))
    for background in ("true", "false"):
        saving = measure("grow", "checkpoint.every_tokens=8192", f"checkpoint.background={background}")
        saves = [seconds for step, seconds in enumerate(saving, WARM_UP_STEPS + 1) if step % 4 == 0]
        others = [seconds for step, seconds in enumerate(saving, WARM_UP_STEPS + 1) if step % 4]
        print(
            f"checkpoint in the {'background' if background == 'true' else 'foreground'}: its step takes "
            f"{statistics.median(saves) / quiet:.2f} quiet steps, the others {statistics.median(others) / quiet:.2f}"
        )


def step_seconds(directory: Path, overrides: list[str], processes: int, contestant: str, *more: str) -> list[float]:
    """Run a contestant, and return the seconds of each of its steps after the warm-up, on rank 0.

    Raises:
        RuntimeError: a process ended with another exit code than 0.
    """
    from benchmarks.distributed_contestants import CONTESTANTS

    run = Path(tempfile.mkdtemp(dir=directory))
    every = () if any(item.startswith("checkpoint.") for item in more) else ("checkpoint=none",)
    body = partial(CONTESTANTS[contestant], [*overrides, *every, *more, f"run_dir={run}/run"], run)
    codes = wait(fork_ranks(processes, body, run / "log"))
    if set(codes) != {0}:
        raise RuntimeError(f"{contestant} ended with {codes}:\n{(run / 'log').read_text()[-3000:]}")
    times = json.loads((run / "times.json").read_text())
    return [after - before for before, after in itertools.pairwise(times)][WARM_UP_STEPS:]


if __name__ == "__main__":
    main()
