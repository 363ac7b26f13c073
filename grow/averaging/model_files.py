"""The files of a checkpoint besides its weights: configuration and tokenizer."""

from pathlib import Path

from grow.common.provenance import run_of
from grow.data.shards import tokenizer_places
from grow.families.tokenizer_files import TOKENIZER_FILES, copy_file, copy_tokenizer

_CONFIG_FILES = ("config.json", "generation_config.json")


def copy_model_files(source: Path, target: Path) -> None:
    """Copy configuration and tokenizer from one model directory to another, where they exist."""
    for name in _CONFIG_FILES:
        copy_file(source, name, target)
    copy_tokenizer(_tokenizer_of(source), target)


def _tokenizer_of(directory: Path) -> Path:
    """Return the directory that has a model's tokenizer; a run's checkpoint shares the final model's or the data's."""
    places = tokenizer_places(directory, run_of(directory))
    return next((place for place in places if any((place / name).is_file() for name in TOKENIZER_FILES)), directory)
