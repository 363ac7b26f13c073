"""Where a model lies: a directory, the final model of a run, or a download from the Hugging Face hub."""

from pathlib import Path

from grow.common.hub import MODEL_FILES, local_or_hub, refuse_missing, refuse_mistyped
from grow.common.provenance import RUN_FILE


def check_source(source: str) -> None:
    """Refuse the name of a model that can only be a local path and is none; the hub is not asked.

    Raises:
        CheckpointError: it names the nearest directory that exists.
    """
    if "/" in source:
        refuse_mistyped(source)
    else:  # no hub id of a model, which has an owner
        refuse_missing(source)


def find_source(source: str) -> Path:
    """Return the directory of a model: itself, a run's `model/`, or the download of a hub id (NAME or NAME@REVISION).

    Raises:
        CheckpointError: there is no such directory or hub model, or the hub cannot be reached.
    """
    check_source(source)
    path = local_or_hub(source, MODEL_FILES)
    return path / "model" if (path / RUN_FILE).is_file() and (path / "model").is_dir() else path
