"""What a growth had finished when it was killed, so that the same growth goes on from there.

progress.json in the unfinished directory holds the recipe, which is all that decides the bits, and the SHA-256 of every
file that is whole. A file is kept if it still has that digest; all are made anew if a key of the recipe is another.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grow.common.errors import CheckpointError
from grow.common.provenance import read_json, sha256, write_json

_FILE = "progress.json"


@dataclass(kw_only=True, slots=True)
class Progress:
    """The finished files of one growth."""

    directory: Path
    recipe: dict[str, Any]
    """Key -> value of whatever decides the bits: settings, target, digests of the sources, versions."""
    files: dict[str, str] = field(default_factory=dict)
    """Name of a finished file -> its SHA-256."""
    notice: str | None = None
    """What became of an earlier try, if there was one."""

    def holds(self, name: str) -> bool:
        """Whether a file is there as it was written."""
        path = self.directory / name
        return name in self.files and path.is_file() and sha256(path) == self.files[name]

    def add(self, name: str, digest: str) -> None:
        """Record a file that is whole and on the disk."""
        self.files[name] = digest
        write_json(self.directory / _FILE, {"recipe": self.recipe, "files": self.files})

    def finish(self) -> None:
        """Forget: the directory is complete."""
        (self.directory / _FILE).unlink(missing_ok=True)


def open_progress(directory: Path, recipe: dict[str, Any]) -> Progress:
    """What an earlier try left in a directory, as far as it followed the same recipe; the rest is removed."""
    recipe = json.loads(json.dumps(recipe, default=str))
    before = _read(directory / _FILE)
    same = before is not None and before["recipe"] == recipe
    files: dict[str, str] = before["files"] if same else {}
    for file in directory.iterdir():
        if file.name not in files:
            file.unlink()
    notice = None
    if same:
        notice = f"An earlier try was stopped after {len(files)} of its weight files; those that are whole were kept."
    elif before is not None:
        notice = _anew(before["recipe"], recipe)
    return Progress(directory=directory, recipe=recipe, files=files, notice=notice)


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except CheckpointError:
        return None


def _anew(before: dict[str, Any], now: dict[str, Any]) -> str:
    keys = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    listed = ", ".join(f"{key}: {before.get(key)!r} there, {now.get(key)!r} here" for key in keys)
    return f"An earlier try was stopped, but it made something else ({listed}). All was made anew."
