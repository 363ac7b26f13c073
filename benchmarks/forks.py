"""Processes of the benchmarks and of tests: forked from a warm one, or fresh. Importing it is cheap."""

import multiprocessing
import os
import re
import runpy
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def import_everything() -> None:
    """Import what a run imports, once, before processes are forked."""
    import lightning.pytorch
    import torch

    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from transformers import LlamaForCausalLM

    torch.set_num_threads(1)  # a forked process cannot use the threads of the one it came from
    assert lightning.pytorch and deepspeed and LlamaForCausalLM


def run_train(overrides: list[str]) -> None:
    """Run the task of train.py in this process, without the program around it."""
    run_command("train", overrides)


def run_command(name: str, overrides: list[str]) -> None:
    """Run the task of a command in this process: train, or one of scripts/ by its name."""
    from grow.cli.config import COMMANDS, compose
    from grow.cli.run_config import RunConfig
    from grow.common.places import command_file

    task = runpy.run_path(str(command_file(name)))["main"].__wrapped__  # (`import train` may find benchmarks/train.py)
    task(compose(overrides, name, COMMANDS.get(name, RunConfig)))


def start_ranks(world_size: int, overrides: list[str], log: Path) -> list[int]:
    """Fork the processes of one start of train.py, as torchrun would start them, and return their ids."""
    return fork_ranks(world_size, partial(_exit_code, "train", overrides), log)


def start_command(name: str, overrides: list[str], log: Path) -> list[int]:
    """Fork the process of a command, as `run_command` names it, and return a list of its id."""
    return fork_ranks(1, partial(_exit_code, name, overrides), log)


def fork_ranks(world_size: int, body: Callable[[], int], log: Path) -> list[int]:
    """Fork processes that each run a body and exit with what it returns, and return their ids.

    Args:
        world_size: Number of processes.
        body: What each runs. It finds its rank in the environment, as under torchrun.
        log: File that gets what they print.
    """
    port = _free_port()
    ranks = []
    for rank in range(world_size):
        process = os.fork()
        if process == 0:
            _become_rank(rank, world_size, port, body, log)
        ranks.append(process)
    return ranks


def is_running(process: int) -> bool:
    """Return whether a child process still runs; one that has ended is left for `wait`."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def sleep_while_running(process: int, seconds: float) -> None:
    """Sleep for so long, or until a child process has ended."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and is_running(process):
        time.sleep(min(left, 0.005))


def kill(ranks: list[int], number: int = signal.SIGKILL) -> bool:
    """Send a signal to the processes that still run, and return whether any did."""
    alive = [rank for rank in ranks if is_running(rank)]
    for rank in alive:
        os.kill(rank, number)
    return bool(alive)


def wait(ranks: list[int]) -> list[int]:
    """Wait until all processes have ended, and return their exit codes, negative for signals."""
    return [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]


def in_fresh_process(task: Callable[..., Any], *arguments: Any) -> Any:
    """Run a task in a process of its own, whose peak memory is the task's alone, and return what it returns.

    The task is a function of a module, since the process imports it by name.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(task, arguments)


def peak_bytes() -> float:
    """Return the most memory that this program ever had.

    getrusage would count what the parent had when it started this process.
    """
    status = Path("/proc/self/status").read_text()
    return float(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _become_rank(rank: int, world_size: int, port: int, body: Callable[[], int], log: Path) -> None:
    """Print to the log, look like a rank of torchrun, run the body, and end this process."""
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


def _exit_code(name: str, overrides: list[str]) -> int:
    """Run a command's task, print what goes wrong, and return the exit code."""
    from grow.common.errors import GrowError

    try:
        run_command(name, overrides)
    except GrowError as error:
        print(f"{type(error).__name__}: {error}")
        return error.exit_code
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
