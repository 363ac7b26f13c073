"""Runs a program in a process of its own, passes signals on to it, and tells how it ended.

The program does not outlive the process that started it: where that one is killed, Linux sends the program SIGTERM, on
which a run saves and leaves.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from grow.common.errors import PreemptedError

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
INTERRUPTED = 130
"""Exit status of a program that the user interrupted."""
_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
_ERROR_LINE = re.compile(r"(^|\s)[\w.]*(Error|Exception): ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a process ended."""

    code: int
    """Exit status; 128 + N when signal N killed it."""
    error: str
    """The last line of its standard error that names an error, else the last line."""
    signals: frozenset[int]
    """Signals that this process received while it ran."""

    @property
    def state(self) -> str:
        """finished, failed, interrupted, or preempted: saved and left, or died of the signal before it could save."""
        if self.code == PreemptedError.exit_code or self.code - 128 in self.signals - {signal.SIGINT}:
            return "preempted"
        if signal.SIGINT in self.signals:
            return "interrupted"
        return "failed" if self.code else "finished"


def run_process(command: list[str], environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command in a process group of its own, so that each signal reaches it once: passed on by this process.

    Args:
        command: Program and arguments.
        environment: Variables that it gets besides this process's own, or instead of them.
    """
    received: list[int] = []
    process: subprocess.Popen[str] | None = None

    def pass_on(signum: int, _: Any) -> None:
        received.append(signum)
        if process is not None:
            process.send_signal(signum)

    heeded = [signum for signum in _PASSED_ON if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, pass_on) for signum in heeded}
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
            preexec_fn=ends_with(os.getpid()),
        )
        for signum in received:  # while it was being started
            process.send_signal(signum)
        error = _pass_through(process)
        code = process.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    code = code if code >= 0 else 128 - code
    return Ended(code=code, error=error or f"exit code {code}", signals=frozenset(received))


def ends_with(parent: int, signum: int = signal.SIGTERM) -> Callable[[], None] | None:
    """Return what a child calls as it begins, so that it gets a signal when its parent dies; None where none can."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # found before the fork, after which little may be called

    def follow() -> None:
        prctl(_PR_SET_PDEATHSIG, signum)
        if os.getppid() != parent:  # it died before the line above
            os.kill(os.getpid(), signal.SIGKILL)

    return follow


def _pass_through(process: subprocess.Popen[str]) -> str:
    """Print a process's standard error as it comes, and return the line of it that names its error best."""
    error = last = ""
    for line in process.stderr or ():
        print(line, end="", file=sys.stderr, flush=True)
        last = line.strip() or last
        error = last if _ERROR_LINE.search(line) else error
    return error or last
