"""Runs the links of a chain, one after another, each as train.py in a process of its own."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from grow.chains.links import Link
from grow.common.errors import PreemptedError
from grow.sweep import INTERRUPTED, run_process

TRAIN = Path(__file__).parents[2] / "train.py"


def walk(links: Sequence[Link]) -> int:
    """Run every link that is not finished; a chain that was stopped goes on at the link it was in.

    Returns:
        0 once all are finished, else the exit code of the link that was not; 75 or 130 where the chain was told to stop.
    """
    for number, link in enumerate(links):
        print(f"\n# {progress(links, number)}", flush=True)
        if link.directory.is_finished:
            print(f"{link.directory.path} is finished.", flush=True)
            continue
        ended = run_process([sys.executable, str(TRAIN), *link.overrides])
        if ended.signals or ended.state == "preempted":  # however this link ended, no other is to be started
            return INTERRUPTED if signal.SIGINT in ended.signals else PreemptedError.exit_code
        if ended.code:
            return ended.code
    return 0


def progress(links: Sequence[Link], number: int) -> str:
    """Where a chain stands as it comes to a link."""
    link, tokens = links[number], [each.tokens for each in links]
    start = "from noise" if number == 0 else f"grown by {link.run.start}"
    part = "" if link.run.trainable.kind == "all" else f", trainable={link.run.trainable.name}"
    return (
        f"link {number + 1} of {len(links)}, {link.name}: {link.run.model.layers} layers of width "
        f"{link.run.model.embed}, {start}{part}; {sum(tokens[:number]):,} of {sum(tokens):,} tokens done"
    )
