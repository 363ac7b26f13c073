"""A directory on this machine, or a download from the Hugging Face hub: one name stands for either."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from grow.common.errors import CheckpointError

TOKENIZER_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
MODEL_FILES = (*TOKENIZER_FILES, "*.safetensors")


def local_or_hub(name: str, files: Sequence[str]) -> Path:
    """Return a directory, or the download of a hub id (NAME or NAME@REVISION).

    Args:
        name: Path of a directory, or hub id.
        files: Patterns of the files to download.

    Raises:
        CheckpointError: there is no such directory or hub id, or the hub cannot be reached.
    """
    if Path(name).is_dir():
        return Path(name)
    refuse_mistyped(name)
    from huggingface_hub import snapshot_download  # takes a second

    try:
        hub_id, _, revision = name.partition("@")
        return Path(snapshot_download(hub_id, revision=revision or None, allow_patterns=list(files)))
    except Exception as error:  # the hub client raises a dozen kinds, and each means that there is no download
        raise CheckpointError(
            f"{name}: no such directory, and the hub did not give it ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}). Check the name and the network, or download it elsewhere and give "
            "the directory."
        ) from None


def push_to_hub(directory: Path, name: str, *, private: bool) -> str:
    """Upload a model's directory as one commit to a repository of the hub, which is made where it does not exist.

    The token is the hub client's own (`hf auth login`, or HF_TOKEN).

    Args:
        directory: Complete stock directory.
        name: OWNER/NAME of the repository.
        private: Whether a new repository is private; one that exists stays as it is.

    Returns:
        Address of the repository.

    Raises:
        CheckpointError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi  # takes a second

    try:
        hub = HfApi()
        address = hub.create_repo(name, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=name, folder_path=directory, ignore_patterns=[".*"], commit_message=f"Export of {directory.name}"
        )
    except Exception as error:  # the hub client raises a dozen kinds, and each means that nothing was published
        raise CheckpointError(
            f"hub={name}: the hub did not take it ({type(error).__name__}: {' '.join(str(error).split())[:300]}). "
            f"Check the name, the network and the token (hf auth login); the model is complete in {directory}."
        ) from None
    return str(address)


def refuse_mistyped(name: str) -> None:
    """Refuse the name of a directory that does not exist and that can only be, or most likely is, a local path.

    A hub id has at most one slash and does not begin like a path. Where its first part is a folder here, it is taken
    for a path with a mistake in it; NAME@main means the hub all the same.

    Raises:
        CheckpointError: it names the nearest directory that exists.
    """
    in_folder_here = "/" in name and "@" not in name and Path(name.partition("/")[0]).is_dir()
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or in_folder_here:
        refuse_missing(name)


def refuse_missing(name: str) -> None:
    """Refuse the path of a directory that does not exist.

    Raises:
        CheckpointError: it names the nearest directory that does.
    """
    path = Path(name)
    if not name or not path.is_dir():
        found = "expected a directory, found a file" if name and path.is_file() else "no such directory"
        raise CheckpointError(
            f"{name or repr(name)}: {found}. {_nearest(path)}Give a model directory, a run directory or a hub id."
        )


def _nearest(path: Path) -> str:
    """Return a question with the existing path that a missing one most resembles; empty where there is none."""
    missing = path
    while not missing.parent.is_dir() and missing.parent != missing:
        missing = missing.parent
    try:
        names = [entry.name for entry in missing.parent.iterdir() if entry.is_dir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(missing.name, names, n=1)
    return f"Did you mean {missing.parent / close[0]}? " if close else ""
