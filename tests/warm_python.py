"""An executable that is python with everything imported: for tests in which starting is not what is tested."""

import functools
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
_servers: list[subprocess.Popen] = []


@functools.cache
def warm_python() -> str:
    """Return the path of an executable that takes `SCRIPT ARGUMENTS` or `-m MODULE ARGUMENTS`, as python does.

    Its first call in a test run starts the process from which all others are forked. The executable lies in a folder
    named bin beside an `activate`, as in a virtual environment.
    """
    directory = Path(tempfile.mkdtemp(prefix="warm-")) / "bin"
    directory.mkdir()
    (directory / "activate").write_text(f"PATH={directory}:$PATH\n")
    client = directory / "python"
    client.write_text(f"#!{sys.executable} -IS\n" + (ROOT / "tests" / "warm_client.py").read_text())
    client.chmod(0o755)
    with (directory / "log").open("w") as log:
        command = [sys.executable, "-m", "tests.warm_server", str(directory)]
        _servers.append(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log))
    while not (directory / "socket").exists():
        assert _servers[0].poll() is None, (directory / "log").read_text()
        time.sleep(0.01)
    return str(client)


def stop() -> None:
    """End the process that others were forked from, where one was started, and wait for it."""
    for server in _servers:
        server.stdin.close()
        server.wait()
        shutil.rmtree(Path(warm_python()).parents[1])
    _servers.clear()
