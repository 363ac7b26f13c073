"""Stands in for train.py where only its life as a job matters: quick, and it waits for a signal where seed=1."""

import os
import signal
import time

from grow.cli.command import entry_point
from grow.cli.config import RunConfig
from grow.common.errors import DivergedError, PreemptedError


@entry_point("train", RunConfig)
def main(run: RunConfig) -> None:
    """seed=0 ends well, 1 waits to be signalled once and ends well when it continues, 2 diverges; all note starts."""
    received = []
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, lambda number, _: received.append(signal.Signals(number).name))
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    run.directory.mkdir(parents=True, exist_ok=True)
    with (run.directory / "starts").open("a") as starts:
        print(restarts, file=starts)
    if run.seed == 2:
        raise DivergedError("the loss is nan")
    deadline = time.monotonic() + 60
    while run.seed == 1 and restarts == 0:
        if received or time.monotonic() > deadline:
            raise PreemptedError(f"stopped by {received}")
        time.sleep(0.05)
    (run.directory / "model").mkdir(exist_ok=True)


if __name__ == "__main__":
    main()
