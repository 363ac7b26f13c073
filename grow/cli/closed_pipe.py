"""A command whose output nobody reads any more, as in `... --list | head`, ends at once and without a word."""

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ENDED = 128 + signal.SIGPIPE
"""Exit status, 141: what a shell shows of a program that the system ends because its output is a closed pipe."""


@contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """Leave quietly where the block, or what is left of its output, is written to a pipe that was closed."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        closed = [output for output in (1, 2) if _is_closed(output)]
        if not closed:  # another pipe: an error like any other
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for output in closed:  # Python writes what it still holds when it ends
            os.dup2(nowhere, output)
        sys.exit(ENDED)


def _is_closed(output: int) -> bool:
    """Return whether nobody can read what is written to a file descriptor."""
    poll = select.poll()
    poll.register(output, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
