"""Stands in for python: asks a server that has everything imported to fork a process, and lives and ends as it does.

A copy of this file, made executable, is what `tests.warm_python.warm_python` returns.
"""

import contextlib
import json
import os
import signal
import socket
import sys

FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def forward(number: int, _: object) -> None:
    """Pass a signal on to the forked process; one that has just ended needs none."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # until it is known whom to pass them on to
with socket.socket(socket.AF_UNIX) as server:
    server.connect(os.path.join(os.path.dirname(os.path.abspath(__file__)), "socket"))  # noqa: PTH100, PTH118, PTH120
    request = {"arguments": sys.argv[1:], "directory": os.getcwd(), "environment": dict(os.environ)}  # noqa: PTH109
    request["ignored"] = [number for number in FORWARDED if signal.getsignal(number) is signal.SIG_IGN]
    socket.send_fds(server, [b"0"], [0, 1, 2])
    server.sendall(json.dumps(request).encode() + b"\n")
    process = int(server.recv(16))
    for number in set(FORWARDED) - set(request["ignored"]):
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    code = int(server.recv(16))
if code < 0:  # ended by a signal: so does this process
    with contextlib.suppress(OSError):  # SIGKILL has no other handler
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
