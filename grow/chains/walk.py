"""Runs the links of a chain, one after another, each as train.py in a process of its own.

Under torchrun or srun every rank walks the chain, and starts its own rank of each link.
"""

import os
import signal
import socket
import sys
from collections.abc import Sequence

from grow.chains.links import Link
from grow.common.errors import PreemptedError
from grow.common.places import command_file
from grow.distributed.ranks import Ranks
from grow.sweeps.sweep import INTERRUPTED, run_process

_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"  # torchrun sets it: ranks meet in a store of its own


def walk(links: Sequence[Link]) -> int:
    """Run every link that is not finished; a chain that was stopped goes on at the link it was in.

    Returns:
        0 once all are finished, else the exit code of the link that was not; 75 or 130 where the chain was stopped.
    """
    for number, link in enumerate(links):
        done = link.directory.is_finished
        if Ranks.found().is_first:
            print(f"\n# {progress(links, number)}" + "; this link is finished" * done, flush=True)
        if done:
            continue
        ended = run_process([sys.executable, str(command_file("train")), *link.overrides], _meeting_place(link.name))
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


def _meeting_place(link: str) -> dict[str, str]:
    """Where a link's ranks find each other under torchrun: its store still holds what the last link's left there.

    Rank 0 chooses a port, and says it to the others through that store.
    """
    if os.environ.get(_AGENT_STORE) != "True":
        return {}
    from torch.distributed import TCPStore

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"grow/{link}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if Ranks.found().is_first:
        with socket.socket() as probe:
            probe.bind(("", 0))
            store.set(key, str(probe.getsockname()[1]))
    return {"MASTER_PORT": store.get(key).decode(), _AGENT_STORE: "False"}
