"""Which checkpoints of a run are kept, how the others are removed, and what happens to one that is in the way."""

from pathlib import Path

from grow.common.aside import move_aside
from grow.common.checkpoint_names import checkpoint_directories, checkpoint_name
from grow.common.errors import CheckpointError
from grow.common.printed import say
from grow.common.provenance import COMPLETE_FILE, write_json
from grow.common.temporary import remove
from grow.training.checkpoints.integrity import difference, digests, holds_the_same, window_files
from grow.training.checkpoints.run_state import PERMANENT, ROLLING, RunState, read_state

_RETIRED_FILE = "RETIRED.json"  # COMPLETE.json of a checkpoint that is being removed


def retire(directory: Path, newest: RunState, keep_last: int, *, keep_windows: bool) -> None:
    """Remove the preemption checkpoints before the newest one, and all but the last `keep_last` rolling ones.

    What is permanent stays, and so does what cannot be read: nobody can say what it is. Of the permanent ones only the
    averaging window goes, which may be larger than the rest and serves to continue from there alone.

    Args:
        directory: Directory of the run's checkpoints.
        newest: State of the checkpoint that was just written, which stays.
        keep_last: Rolling checkpoints that are kept, the newest included.
        keep_windows: Whether permanent checkpoints keep their averaging window.
    """
    before = [path for path in checkpoint_directories(directory) if path.name < checkpoint_name(newest.step)]
    kinds = {path: kind for path in before if not path.is_symlink() and (kind := _kind(path)) is not None}
    rolling = [path for path, kind in kinds.items() if kind == ROLLING]
    kept = rolling[-(keep_last - (newest.kind == ROLLING)) :] if keep_last > 1 else []
    for path, kind in kinds.items():
        if kind == PERMANENT and not keep_windows:
            _drop_window(path)
        elif kind != PERMANENT and path not in kept:
            (path / COMPLETE_FILE).rename(path / _RETIRED_FILE)
    for path in before:
        if (path / _RETIRED_FILE).is_file():  # retired now, or by a process that was killed on the way
            _remove(path)


def _kind(path: Path) -> str | None:
    """Return the kind of a complete checkpoint; None where it is not complete, or its state cannot be read."""
    try:
        digests(path / COMPLETE_FILE)
        return read_state(path).kind
    except (CheckpointError, OSError):
        return None


def _drop_window(path: Path) -> None:
    """Remove the averaging window from a checkpoint, which stays complete at every moment."""
    window = window_files(path)
    if window:
        rest = {name: digest for name, digest in digests(path / COMPLETE_FILE).items() if name not in window}
        write_json(path / COMPLETE_FILE, rest)
        for name in window:
            (path / name).unlink(missing_ok=True)


def _return_window(newer: Path, path: Path) -> None:
    """Move the averaging window of an equal checkpoint to one that has dropped its own."""
    window = [] if window_files(path) else window_files(newer)
    if window:
        own, theirs = (digests(each / COMPLETE_FILE) for each in (path, newer))
        for name in window:
            (newer / name).replace(path / name)
        write_json(path / COMPLETE_FILE, own | {name: theirs[name] for name in window})


def _remove(path: Path) -> None:
    """Remove a retired checkpoint's own files, and its directory where nothing else is in it."""
    for name in digests(path / _RETIRED_FILE):
        (path / name).unlink(missing_ok=True)
    (path / _RETIRED_FILE).unlink()
    if not any(path.iterdir()):
        path.rmdir()


def remove_unfinished(directory: Path) -> None:
    """Remove what a run that was killed while it saved has left; only the run that holds the lock may call this."""
    for path in directory.glob(f".step-{'[0-9]' * 8}.partial"):
        remove(path)


def put_in_place(partial: Path, final: Path) -> None:
    """Give a finished checkpoint its name; what already has this name is never removed.

    A run meets such a one where it continued from an older checkpoint, because newer ones were damaged. One that is
    whole and holds the same bits stays, and the new one is dropped. Any other is moved aside.
    """
    if final.exists() or final.is_symlink():
        if _is_whole(final) and holds_the_same(final, partial):
            _return_window(partial, final)
            remove(partial)
            return
        say(f"notice: {final} was in the way of the new checkpoint, and is now {move_aside(final)}.")
    partial.replace(final)


def _is_whole(path: Path) -> bool:
    try:
        return difference(path) is None
    except CheckpointError:
        return False
