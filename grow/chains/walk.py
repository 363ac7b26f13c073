"""Runs the links of a chain, one after another, each as train.py in a process of its own.

Under torchrun or srun every rank walks the chain, and starts its own rank of each link.
"""

import os
import signal
import socket
import sys
from collections.abc import Sequence

from grow.chains.links import Link
from grow.common.child_process import INTERRUPTED, run_process
from grow.common.errors import PreemptedError
from grow.common.places import command_file
from grow.common.printed import say
from grow.distributed.ranks import Ranks
from grow.families.settings import ModelSettings

_AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"  # set by torchrun, whose ranks meet in a store that it holds


def walk(links: Sequence[Link]) -> int:
    """Run every link that is not finished; a chain that was stopped continues at the link it was in.

    Returns:
        0 once all are finished, else the exit code of the link that failed; 75 or 130 where the chain was stopped.
    """
    for number, link in enumerate(links):
        done = link.directory.is_finished
        if Ranks.found().is_first:
            say(f"\n# {progress(links, number)}" + "; this link is finished" * done)
        if done:
            continue
        ended = run_process([sys.executable, str(command_file("train")), *link.overrides], _meeting_place(link.name))
        if ended.signals or ended.state == "preempted":  # no other link is started, however this one ended
            return INTERRUPTED if signal.SIGINT in ended.signals else PreemptedError.exit_code
        if ended.code:
            return ended.code
    return 0


def progress(links: Sequence[Link], number: int) -> str:
    """Return in words where a chain stands when it comes to a link."""
    link, tokens = links[number], [each.tokens for each in links]
    start = "from noise" if number == 0 else f"grown by {link.run.start}"
    part = "" if link.run.trainable.kind == "all" else f", trainable={link.run.trainable.name}"
    return (
        f"link {number + 1} of {len(links)}, {link.name}: {_described(link)}, {start}{part}; "
        f"{sum(tokens[:number]):,} of {sum(tokens):,} tokens done"
    )


def _described(link: Link) -> str:
    """Return the size of a link's model in words; the factors on its source's where it has no sizes of its own."""
    model, scale = link.run.model, link.run.scale
    if isinstance(model, ModelSettings):
        return f"{model.layers} layers of width {model.embed}"
    return f"{scale.layers:g} x the layers and {scale.embed:g} x the width of {model.grown_from}"


def _meeting_place(link: str) -> dict[str, str]:
    """Return the variables by which a link's ranks find each other under torchrun; none where it did not start them.

    torchrun's own store still holds what the ranks of the last link wrote, so each link gets one of its own: rank 0
    chooses its port, and tells the others through torchrun's.
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
