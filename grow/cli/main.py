"""The `grow` command: `grow train model=tiny` is `python train.py model=tiny`, from any directory."""

import ast
import difflib
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path

from grow.cli.closed_pipe import ends_with_its_reader
from grow.common.errors import ConfigError
from grow.common.places import command_files
from grow.common.printed import say


@ends_with_its_reader()
def main() -> None:
    """Run the command that the first argument names; without one, list all commands."""
    commands = command_files()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(overview(commands))
    elif name in commands:
        sys.argv = [str(commands[name]), *sys.argv[2:]]  # sweeps and chains start this file again
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        say(_unknown(name, list(commands)), file=sys.stderr)
        sys.exit(ConfigError.exit_code)


def overview(commands: Mapping[str, Path]) -> str:
    """Return the text of `grow --help`: a line for each command, read from its file without running it."""
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {_purpose(path)}" for name, path in commands.items()]
    return "\n".join(
        [
            "Grow trains large language models from small ones. Usage: grow COMMAND [KEY=VALUE ...]",
            "",
            *lines,
            "",
            "First steps:  grow train model=tiny growth=none",
            "Every choice of a command:  grow COMMAND --help",
        ]
    )


def _purpose(path: Path) -> str:
    """Return what the first line of a program's docstring says, up to its colon."""
    lines = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
    return lines[0].partition(":")[0].partition(". ")[0].rstrip(".") if lines else ""


def _unknown(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    guess = f" Did you mean {nearest[0]}?" if nearest else ""
    return f"ConfigError: {name}: no such command.{guess} Commands: {', '.join(known)}."


if __name__ == "__main__":
    main()
