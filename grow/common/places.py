"""Where the configuration and the commands lie: in a checkout beside the package, in an installed wheel inside it."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = (_PACKAGE / "configs").is_dir()
CONFIG_DIR = _PACKAGE / "configs" if _INSTALLED else _PACKAGE.parent / "configs"
COMMAND_DIRS = (_PACKAGE / "commands",) if _INSTALLED else (_PACKAGE.parent, _PACKAGE.parent / "scripts")


def command_file(name: str) -> Path:
    """Return the program of a command: train, eval, or one of scripts/.

    Raises:
        FileNotFoundError: there is no such command.
    """
    for directory in COMMAND_DIRS:
        if (directory / f"{name}.py").is_file():
            return directory / f"{name}.py"
    raise FileNotFoundError(f"{name}: expected a command in {' or '.join(map(str, COMMAND_DIRS))}")
