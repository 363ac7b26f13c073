"""The ledger of a growth: the files it had finished when it was killed, so that the same call continues from there.

progress.json in the unfinished directory holds the recipe, which is everything that decides the bits, and the digest
of every finished file. A file is kept if it still has that digest. All files are made again if the recipe differs.
"""

import json
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grow.common.digests import digest_like
from grow.common.errors import CheckpointError
from grow.common.provenance import write_json
from grow.common.records import read_record
from grow.common.temporary import MARKER, remove

LEDGER_FILE = "progress.json"


@dataclass(kw_only=True, slots=True)
class Ledger:
    """The finished files of one growth."""

    directory: Path
    recipe: dict[str, Any]
    """Key -> value of everything that decides the bits: settings, target, digests of the sources, versions. A value
    that is still being computed may be a future, which is awaited when the recipe is compared or first written."""
    files: dict[str, str] = field(default_factory=dict)
    """Name of a finished file -> its digest."""
    notice: str | None = None
    """What became of an earlier try, in one line; None where there was none."""

    def holds(self, name: str) -> bool:
        """Return whether a file is finished and still as it was written."""
        path, written = self.directory / name, self.files.get(name)
        return written is not None and path.is_file() and digest_like(written, path) == written

    def add(self, name: str, digest: str) -> None:
        """Record a file that is complete and on the disk."""
        self.files[name] = digest
        self.recipe = _settled(self.recipe)
        write_json(self.directory / LEDGER_FILE, {"recipe": self.recipe, "files": self.files})

    def remove(self) -> None:
        """Remove the ledger from a directory that is complete."""
        (self.directory / LEDGER_FILE).unlink(missing_ok=True)


def open_ledger(directory: Path, recipe: dict[str, Any]) -> Ledger:
    """Open the ledger that an earlier try left in a directory if it has the same recipe, else a new one.

    Files that it does not list are removed.
    """
    before = _read(directory / LEDGER_FILE)
    recipe = recipe if before is None else _settled(recipe)
    same = before is not None and before.recipe == recipe
    files = before.files if before is not None and same else {}
    for file in directory.iterdir():
        if file.name != MARKER and (file.name not in files or file.is_symlink()):
            remove(file)
    notice = None
    if same:
        notice = f"An earlier try was stopped after {len(files)} of its weight files; those that are whole were kept."
    elif before is not None:
        notice = _differences(before.recipe, recipe)
    return Ledger(directory=directory, recipe=recipe, files=files, notice=notice)


def _settled(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe as it stands in the ledger's file, once all of it is known."""

    def text(value: Any) -> Any:
        return value.result() if isinstance(value, Future) else str(value)

    settled: dict[str, Any] = json.loads(json.dumps(recipe, default=text))
    return settled


@dataclass(kw_only=True, slots=True)
class _Progress:
    """Content of the ledger's file."""

    recipe: dict[str, Any]
    files: dict[str, str]


def _read(path: Path) -> _Progress | None:
    """Read an earlier try's ledger; None where there is none, or a damaged one."""
    try:
        return read_record(path, _Progress)
    except CheckpointError:
        return None


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    keys = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    listed = ", ".join(f"{key}: {before.get(key)!r} there, {now.get(key)!r} here" for key in keys)
    return f"An earlier try was stopped, but it made something else ({listed}). All was made anew."
