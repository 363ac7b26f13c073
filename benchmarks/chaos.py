"""Kills a small run again and again, lets it continue, and compares its final weights with those of a quiet run.

    python -m benchmarks.chaos --kills 200                          # one process
    python -m benchmarks.chaos --kills 20 --processes 2 -- strategy=zero2
    python -m benchmarks.chaos --kills 50 --in-save                 # only while a checkpoint is being written

What follows -- is given to train.py. Processes are forked with everything imported, so that a start costs no seconds.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # train.py is a file, not a package

RUN = (
    *("model=tiny", "growth=none", "model.layers=2", "model.embed=32", "model.heads=2", "model.kv_heads=2"),
    *("model.head_dim=16", "model.ffn=64", "data.sequence_length=32", "trainer.accelerator=cpu"),
    *("trainer.tokens_per_step=256", "trainer.micro_batch=4", "trainer.max_tokens=20480", "trainer.val_tokens=512"),
    *("trainer.val_every_tokens=5120", "checkpoint.every_tokens=1024", "trainer.log_every_steps=5"),
)


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What the kills did."""

    kills: int = 0
    starts: int = 0
    runs: int = 0
    equal: int = 0


def main() -> None:
    """Parse, kill, compare; exit 1 where any run ended with other weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--in-save", action="store_true", help="kill only while a checkpoint is being written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="of train.py, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        outcome = torment(
            Path(directory),
            [*RUN, *options.overrides],
            kills=options.kills,
            processes=options.processes,
            in_save=options.in_save,
            seed=options.seed,
            say=lambda line: print(line, flush=True),
        )
    print(
        f"{outcome.kills} kills over {outcome.runs} runs ({outcome.starts} starts, {options.processes} processes): "
        f"{outcome.equal} of {outcome.runs} ended with the quiet run's weights, bit for bit"
    )
    sys.exit(outcome.equal != outcome.runs)


def torment(
    directory: Path,
    overrides: list[str],
    *,
    kills: int,
    processes: int,
    in_save: bool,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Kill runs until there were enough kills, each run being continued until it is finished.

    Args:
        directory: gets the runs.
        overrides: of train.py, without run_dir.
        kills: SIGKILLs to hand out, each to all processes of a run.
        processes: ranks of a run.
        in_save: kill only while a checkpoint is being written.
        seed: of the moments.
        say: gets a line a finished run.
    """
    import_everything()
    draw, outcome = random.Random(seed), Outcome()
    started = time.monotonic()
    quiet = _finished(directory / "quiet", overrides, processes)
    longest_s = time.monotonic() - started
    while outcome.kills < kills:
        run = directory / f"run-{outcome.runs}"
        codes: list[int] = []
        while set(codes) != {0}:
            ranks = start_ranks(processes, [*overrides, f"run_dir={run}"], log=directory / "log")
            outcome.starts += 1
            if outcome.kills < kills:
                _wait_for_moment(run, ranks, draw, longest_s, in_save)
                outcome.kills += kill(ranks)
            codes = wait(ranks)
            if not set(codes) <= {0, -signal.SIGKILL}:
                raise RuntimeError(f"a start ended with {codes}:\n{(directory / 'log').read_text()[-4000:]}")
        outcome.runs += 1
        outcome.equal += _weights(run) == quiet
        say(f"run {outcome.runs}: {outcome.kills} kills so far, {outcome.equal} of {outcome.runs} runs equal")
        shutil.rmtree(run)
    return outcome


def import_everything() -> None:
    """Import what a run imports, once, before processes are forked."""
    import lightning.pytorch
    import torch

    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from transformers import LlamaForCausalLM

    torch.set_num_threads(1)  # a forked process cannot use the threads of the one it came from
    assert lightning.pytorch and deepspeed and LlamaForCausalLM


def start_ranks(world_size: int, overrides: list[str], log: Path) -> list[int]:
    """Fork the processes of one start of train.py, as torchrun would start them; returns their ids."""
    return fork_ranks(world_size, partial(_train, overrides), log)


def fork_ranks(world_size: int, body: Callable[[], int], log: Path) -> list[int]:
    """Fork processes that each run a body and exit with what it returns; what they print goes to a file."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank in range(world_size):
        process = os.fork()
        if process == 0:
            _become_rank(rank, world_size, port, body, log)
        ranks.append(process)
    return ranks


def kill(ranks: list[int], number: int = signal.SIGKILL) -> bool:
    """Send a signal to those that still run; returns whether any did."""
    alive = [rank for rank in ranks if os.waitid(os.P_PID, rank, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None]
    for rank in alive:
        os.kill(rank, number)
    return bool(alive)


def wait(ranks: list[int]) -> list[int]:
    """Exit codes, negative for signals, once all have ended."""
    return [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]


def _become_rank(rank: int, world_size: int, port: int, body: Callable[[], int], log: Path) -> None:
    """Never returns."""
    code = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)  # who forked may have had others
        if world_size > 1:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
            os.environ.update({name: str(value) for name, value in names.items()})
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        code = body()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _train(overrides: list[str]) -> int:
    import traceback

    import train
    from grow.cli.config import compose
    from grow.common.errors import GrowError

    try:
        train.main.__wrapped__(compose(overrides))
    except GrowError as error:
        print(f"{type(error).__name__}: {error}")
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _finished(run: Path, overrides: list[str], processes: int) -> bytes:
    log = run.with_name("log")
    codes = wait(start_ranks(processes, [*overrides, f"run_dir={run}"], log))
    if set(codes) != {0}:
        raise RuntimeError(f"the quiet run ended with {codes}:\n{log.read_text()[-4000:]}")
    return _weights(run)


def _weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def _wait_for_moment(run: Path, ranks: list[int], draw: random.Random, longest_s: float, in_save: bool) -> None:
    if not in_save:
        time.sleep(draw.uniform(0, longest_s))
        return
    skipped = draw.randrange(3)  # saves to let pass
    for _ in _saves(run, ranks):
        if skipped == 0:
            time.sleep(draw.uniform(0, 0.05))
            return
        skipped -= 1


def _saves(run: Path, ranks: list[int]) -> Iterator[str]:
    """Names of partial checkpoints, each as it appears, until the processes end."""
    seen = None
    while os.waitid(os.P_PID, ranks[0], os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        partial = next((path.name for path in run.glob("checkpoints/.step-*.partial")), None)
        if partial is not None and partial != seen:
            seen = partial
            yield partial
        time.sleep(0.0005)


if __name__ == "__main__":
    main()
