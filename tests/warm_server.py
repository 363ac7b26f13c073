"""Forks processes that have everything imported: python -m tests.warm_server DIRECTORY

It listens at DIRECTORY/socket for tests/warm_client.py and ends when its standard input does. It computes nothing and
starts no threads, so that a forked process is what `python SCRIPT` would be after its imports.
"""

import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from pathlib import Path

USED = (
    *("grow.cli.command", "grow.training.announce", "grow.training.export", "grow.training.fit", "grow.training.start"),
    *("grow.evaluation.evaluate", "grow.evaluation.in_run", "grow.growth.run", "grow.report.publish"),
)


def import_everything() -> None:
    """Import what commands import after they have been configured."""
    from benchmarks import forks

    forks.import_everything()
    for name in USED:
        importlib.import_module(name)


def serve(listener: socket.socket) -> dict:
    """Fork a process for each request and tell its client how it ended.

    Returns:
        The request, in the forked process. The server itself exits.
    """
    clients: dict[int, socket.socket] = {}  # by process
    ended, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # ignored signals wake nobody
    ready = selectors.DefaultSelector()
    for source in (listener, ended, sys.stdin.fileno()):
        ready.register(source, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj is listener:
                client, _ = listener.accept()
                request, files = _receive(client)
                process = os.fork()
                if process == 0:
                    ready.close()
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _become(request, files, close=[ended, wakes, *map(socket.socket.detach, [listener, client])])
                    return request
                for file in files:
                    os.close(file)
                clients[process] = client
                client.sendall(str(process).encode())
                ready.register(client, selectors.EVENT_READ, process)
            elif key.fileobj == ended:
                os.read(ended, 512)
                _tell_ends(clients, ready)
            elif key.data in clients:  # a client says no more: it was killed, and so are they it stood for
                os.kill(key.data, signal.SIGKILL)
                ready.unregister(key.fileobj)
            elif key.fileobj == sys.stdin.fileno():
                for process in clients:
                    os.kill(process, signal.SIGKILL)
                os._exit(0)


def _receive(client: socket.socket) -> tuple[dict, list[int]]:
    _, files, _, _ = socket.recv_fds(client, 1, 3)
    with client.makefile("rb") as lines:
        return json.loads(lines.readline()), files


def _tell_ends(clients: dict[int, socket.socket], ready: selectors.BaseSelector) -> None:
    while clients:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process == 0:
            return
        client = clients.pop(process)
        if client in ready.get_map():
            ready.unregister(client)
            client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        client.close()


def _become(request: dict, files: list[int], close: list[int]) -> None:
    """Take over the client's files, directory, environment and ignored signals."""
    for target, file in enumerate(files):
        os.dup2(file, target)
    for file in (*files, *close):
        os.close(file)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])


def run(arguments: list[str]) -> None:
    """Do what `python ARGUMENTS` does."""
    while arguments[0] == "-u":
        arguments = arguments[1:]
        sys.stdout.reconfigure(line_buffering=True)
    kind, *rest = arguments
    if kind == "-m":
        sys.argv[:], sys.path[0] = rest, str(Path.cwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:], sys.path[0] = arguments, str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(directory / "socket"))
        listening.listen()
        import_everything()
        gc.freeze()  # what forked processes share stays shared
        asked = serve(listening)
    sys.executable = str(directory / "python")  # what it starts in its turn is forked too
    run(asked["arguments"])
