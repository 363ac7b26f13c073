"""Kills a small run or command again and again, runs it until it is finished, and compares it with a quiet one.

    python -m benchmarks.chaos --kills 200                          # one process
    python -m benchmarks.chaos --kills 20 --processes 2 -- strategy=zero2
    python -m benchmarks.chaos --kills 50 --in-save                 # only while a checkpoint is being written
    python -m benchmarks.chaos --kills 50 --what grow prepare average export

A training run is equal if its final weights are, and no temporary file is left in it; a command, if every byte of the
folder around its output is. What follows -- is given to train.py. Processes are forked with everything imported, so
that a start costs no seconds.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.chaos_commands import COMMANDS, KillCount, kill_and_repeat
from benchmarks.forks import import_everything, is_running, kill, sleep_while_running, start_ranks, wait
from grow.cli.closed_pipe import ends_with_its_reader
from grow.common.temporary import MARKER

RUN = (
    *("model=tiny", "growth=none", "model.layers=2", "model.embed=32", "model.heads=2", "model.kv_heads=2"),
    *("model.head_dim=16", "model.ffn=64", "data.sequence_length=32", "trainer.accelerator=cpu"),
    *("trainer.tokens_per_step=256", "trainer.micro_batch=4", "trainer.max_tokens=20480", "trainer.val_tokens=512"),
    *("trainer.val_every_tokens=5120", "checkpoint.every_tokens=1024", "trainer.log_every_steps=5"),
)


@ends_with_its_reader()
def main() -> None:
    """Parse, kill, compare; exit 1 where anything ended otherwise than the quiet one."""
    options = read_options()
    with tempfile.TemporaryDirectory() as directory:
        count = kill_all(options, Path(directory))
    print(
        f"{count.kills} kills over {count.runs} runs of {', '.join(options.what)} ({count.starts} starts, "
        f"{options.processes} processes): {count.equal} of {count.runs} ended as the quiet run did, bit for bit"
    )
    sys.exit(count.equal != count.runs)


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--what", nargs="+", choices=["train", *COMMANDS], default=["train"], help="train, or commands")
    parser.add_argument("--processes", type=int, default=1, help="ranks of a training run")
    parser.add_argument("--in-save", action="store_true", help="kill only while a checkpoint is being written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="of train.py, after --")
    options = parser.parse_args()
    if "train" in options.what and len(options.what) > 1:
        parser.error("--what: expected train alone, or commands")
    return options


def kill_all(options: argparse.Namespace, directory: Path) -> KillCount:
    """Kill what the command line names, and print a line for each run that was finished."""
    say = partial(print, flush=True)
    if options.what != ["train"]:
        return kill_and_repeat(directory, options.what, kills=options.kills, seed=options.seed, say=say)
    return kill_and_continue(
        directory,
        [*RUN, *options.overrides],
        kills=options.kills,
        processes=options.processes,
        in_save=options.in_save,
        seed=options.seed,
        say=say,
    )


def kill_and_continue(
    directory: Path,
    overrides: list[str],
    *,
    kills: int,
    processes: int,
    in_save: bool,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
) -> KillCount:
    """Kill runs until there were enough kills, each run being continued until it is finished.

    Args:
        directory: Directory that gets the runs.
        overrides: Overrides of train.py, without run_dir.
        kills: Number of SIGKILLs, each to all processes of a run.
        processes: Ranks of one run.
        in_save: Kill only while a checkpoint is being written.
        seed: Seed of the moments.
        say: Function that gets one line for each finished run.

    Raises:
        RuntimeError: a start ended by itself with another exit code than 0.
    """
    import_everything()
    draw, count = random.Random(seed), KillCount()
    started = time.monotonic()
    quiet = _finish_quietly(directory / "quiet", overrides, processes)
    longest_s = time.monotonic() - started
    while count.kills < kills:
        run = directory / f"run-{count.runs}"
        codes: list[int] = []
        while set(codes) != {0}:
            started, is_first = time.monotonic(), not codes
            ranks = start_ranks(processes, [*overrides, f"run_dir={run}"], log=directory / "log")
            count.starts += 1
            if count.kills < kills:
                _wait_for_moment(run, ranks, draw, longest_s, in_save)
                killed = kill(ranks)
                count.kills += killed
                if is_first and not killed:  # the machine is less busy than it was
                    longest_s = time.monotonic() - started
            codes = wait(ranks)
            if not set(codes) <= {0, -signal.SIGKILL}:
                raise RuntimeError(f"a start ended with {codes}:\n{(directory / 'log').read_text()[-4000:]}")
        count.runs += 1
        left = sorted(str(path.relative_to(run)) for path in run.rglob("*") if _is_temporary(path))
        count.equal += _weights(run) == quiet and not left
        said = f"; left behind: {', '.join(left)}" if left else ""
        say(f"run {count.runs}: {count.kills} kills so far, {count.equal} of {count.runs} runs equal{said}")
        shutil.rmtree(run)
    return count


def _finish_quietly(run: Path, overrides: list[str], processes: int) -> bytes:
    """Run to the end without a kill, and return the final weights."""
    log = run.with_name("log")
    codes = wait(start_ranks(processes, [*overrides, f"run_dir={run}"], log))
    if set(codes) != {0}:
        raise RuntimeError(f"the quiet run ended with {codes}:\n{log.read_text()[-4000:]}")
    return _weights(run)


def _weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def _is_temporary(path: Path) -> bool:
    return path.suffix == ".partial" or path.name == MARKER


def _wait_for_moment(run: Path, ranks: list[int], draw: random.Random, longest_s: float, in_save: bool) -> None:
    """Wait for any moment of a run, or for one during a save."""
    if not in_save:
        sleep_while_running(ranks[0], draw.uniform(0, longest_s))
        return
    passing = draw.randrange(3)  # saves that are let pass
    for _ in _saves(run, ranks):
        if passing == 0:
            time.sleep(draw.uniform(0, 0.05))
            return
        passing -= 1


def _saves(run: Path, ranks: list[int]) -> Iterator[str]:
    """Yield the names of partial checkpoints, each as it appears, until the processes end."""
    seen = None
    while is_running(ranks[0]):
        partial = next((path.name for path in run.glob("checkpoints/.step-*.partial")), None)
        if partial is not None and partial != seen:
            seen = partial
            yield partial
        time.sleep(0.0005)


if __name__ == "__main__":
    main()
