"""Where the configuration and the commands lie: in a checkout beside the package, in an installed wheel inside it."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = (_PACKAGE / "configs").is_dir()
_TOP = _PACKAGE if _INSTALLED else _PACKAGE.parent
CONFIG_DIR = _TOP / "configs"
MEASURED_FILE = _TOP / "docs" / "growth_measured.csv"
COMMAND_DIRS = (_PACKAGE / "commands",) if _INSTALLED else (_TOP, _TOP / "scripts")
FETCH_CORPUS = f"sh {_PACKAGE / 'commands' / 'fetch_corpus.sh'}" if _INSTALLED else "make corpus"
"""The shell command that downloads the texts of the embedded corpus into data/raw."""


def command_files() -> dict[str, Path]:
    """Return the program of every command by its name: train and eval, then those of scripts/."""
    found = {path.stem: path for directory in COMMAND_DIRS for path in sorted(directory.glob("*.py"))}
    return {name: found.pop(name) for name in ("train", "eval") if name in found} | found


def command_file(name: str) -> Path:
    """Return the program of a command: train, eval, or one of scripts/.

    Raises:
        FileNotFoundError: there is no such command.
    """
    commands = command_files()
    if name not in commands:
        raise FileNotFoundError(f"{name}: expected a command in {' or '.join(map(str, COMMAND_DIRS))}")
    return commands[name]
