"""Starts many commands in forked children of one process that has Hydra imported: a start costs what is left to import.

    python tests/scripts/forked_commands.py '[["scripts/report.py", "--help"], ["-m", "benchmarks.chaos", "--help"]]'

Prints a JSON list with what each did: exit code, standard output and error, and the heavy packages it imported.
"""

import json
import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path

from grow.cli import command

HEAVY = ("torch", "lightning", "deepspeed", "transformers", "matplotlib", "datasets", "lm_eval", "sklearn", "wandb")


def start(command_line: list[str]) -> dict:
    """Run a command in a child process, as `python` followed by the command line would."""
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch, name) for name in ("out", "err", "heavy")]
        child = os.fork()
        if child == 0:
            _become(command_line, *files)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out, err, heavy = (file.read_text() for file in files)
    return {"code": code, "out": out, "err": err, "heavy": heavy.split()}


def _become(command_line: list[str], out: Path, err: Path, heavy: Path) -> None:
    """Run the command with its output in files, note what was imported, and end this process."""
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    code = _exit_code(command_line)
    sys.stdout.flush()
    sys.stderr.flush()
    heavy.write_text(" ".join(name for name in HEAVY if name in sys.modules))
    os._exit(code)


def _exit_code(command_line: list[str]) -> int:
    try:
        if command_line[0] == "-m":
            sys.argv = command_line[1:]
            sys.path[0] = str(Path.cwd())
            runpy.run_module(command_line[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command_line
            sys.path[0] = str(Path(command_line[0]).parent.absolute())
            runpy.run_path(command_line[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    assert command and not set(HEAVY) & set(sys.modules)
    print(json.dumps([start(command_line) for command_line in json.loads(sys.argv[1])]))
