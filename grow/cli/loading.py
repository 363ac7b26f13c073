"""Says once what a command is waiting for when it begins to import a large library.

A finder ahead of Python's own sees every import. It resolves nothing: it prints a line at the first import of a large
library and removes itself. So a command need not say it, and one that imports nothing large stays silent.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from types import ModuleType

from grow.common.errors import ConfigError
from grow.distributed.ranks import Ranks

_TORCH = "torch and the libraries built on it"
_LARGE = {"torch": _TORCH, "transformers": _TORCH, "lightning": _TORCH, "datasets": "datasets", "wandb": "wandb"}


class _SaysOnce(MetaPathFinder):
    def __init__(self, program: str) -> None:
        self._program = program

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname in _LARGE:
            sys.meta_path.remove(self)
            print(f"{self._program}: loading {_LARGE[fullname]} ...", file=sys.stderr, flush=True)


def say_what_is_loaded(program: str) -> None:
    """Print one line to standard error before the first large import of this process; ranks other than 0 stay silent.

    Args:
        program: Name of the command, which the line begins with.
    """
    with suppress(ConfigError):  # contradictory variables are the plan's to report
        if Ranks.found().is_first and not any(library in sys.modules for library in _LARGE):
            sys.meta_path.insert(0, _SaysOnce(program))
