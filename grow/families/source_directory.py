"""Where a model lies: a directory, the final model of a run, or a download from the Hugging Face hub."""

from pathlib import Path

from grow.common.errors import CheckpointError
from grow.common.provenance import RUN_FILE

_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def find_source(source: str) -> Path:
    """Return the directory of a model: itself, a run's `model/`, or the download of a hub id (NAME or NAME@REVISION).

    Raises:
        CheckpointError: there is no such directory or hub model, or the hub cannot be reached.
    """
    path = Path(source)
    if path.is_dir():
        return path / "model" if (path / RUN_FILE).is_file() and (path / "model").is_dir() else path
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise CheckpointError(f"{source}: no such directory. Give a model directory, a run directory or a hub id.")
    from huggingface_hub import snapshot_download

    try:
        name, _, revision = source.partition("@")
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub client raises a dozen kinds, and each means that there is no download
        raise CheckpointError(
            f"{source}: no such directory, and the hub did not give it ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}). Check the name and the network, or download it elsewhere and give "
            "the directory."
        ) from None
