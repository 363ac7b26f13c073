"""What lies beside a checkpoint's weights: configuration, tokenizer, and what was spent on it."""

import shutil
from pathlib import Path

from grow.common.provenance import RUN_FILE, STATE_FILE, read_json
from grow.data.shards import TOKENIZER_DIR
from grow.families.weights import TOKENIZER_FILES, copy_tokenizer

_CONFIG_FILES = ("config.json", "generation_config.json")


def carry(source: Path, target: Path) -> None:
    """Copy configuration and tokenizer from one model directory to another, as far as there are any."""
    for name in _CONFIG_FILES:
        if (source / name).is_file():
            shutil.copy2(source / name, target / name)
    copy_tokenizer(_tokenizer_of(source), target)


def _tokenizer_of(directory: Path) -> Path:
    """A run's checkpoint has no tokenizer of its own: it is the final model's and the data's."""
    run = _run_of(directory)
    if run is None:
        return directory
    places = [run / "model", Path(read_json(run / RUN_FILE)["data"]["path"]) / TOKENIZER_DIR]
    return next((place for place in places if any((place / name).is_file() for name in TOKENIZER_FILES)), directory)


def _run_of(checkpoint: Path) -> Path | None:
    """The run that a directory is a checkpoint of."""
    run = checkpoint.resolve().parents[1]
    is_one = (checkpoint / STATE_FILE).is_file() and (run / RUN_FILE).is_file()
    return run if is_one else None
