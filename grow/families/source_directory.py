"""Where a model lies: a directory, the final model of a run, or a download from the Hugging Face hub."""

from pathlib import Path

from grow.common.hub import MODEL_FILES, local_or_hub, refuse_missing
from grow.common.provenance import RUN_FILE


def find_source(source: str) -> Path:
    """Return the directory of a model: itself, a run's `model/`, or the download of a hub id (NAME or NAME@REVISION).

    Raises:
        CheckpointError: there is no such directory or hub model, or the hub cannot be reached.
    """
    if "/" not in source:  # no hub id either
        refuse_missing(source)
    path = local_or_hub(source, MODEL_FILES)
    return path / "model" if (path / RUN_FILE).is_file() and (path / "model").is_dir() else path
