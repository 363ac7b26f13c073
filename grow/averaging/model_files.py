"""The files of a checkpoint besides its weights: configuration and tokenizer."""

from pathlib import Path

from grow.common.errors import CheckpointError
from grow.common.provenance import run_of, write_json
from grow.common.records import read_json
from grow.data.shards import tokenizer_places
from grow.families.tokenizer_files import TOKENIZER_FILES, copy_file, copy_tokenizer

_CONFIG_FILES = ("config.json", "generation_config.json")


def copy_model_files(source: Path, target: Path) -> None:
    """Copy configuration and tokenizer from one model directory to another, where they exist.

    The code that a configuration names (auto_map) is not copied, so neither is the name.

    Raises:
        CheckpointError: a file leads out of the source, or the source was removed meanwhile.
    """
    for name in _CONFIG_FILES:
        copy_file(source, name, target)
    _forget_code(target / "config.json")
    copy_tokenizer(tokenizer_of(source), target)
    if not source.is_dir():
        raise CheckpointError(
            f"{source}: was removed before its configuration was copied. A run that is still training retires its "
            "older checkpoints; name one that it keeps."
        )


def _forget_code(config: Path) -> None:
    """Remove what a configuration says of Python code beside it."""
    content = read_json(config) if config.is_file() else None
    if isinstance(content, dict) and content.pop("auto_map", None) is not None:
        write_json(config, content)


def tokenizer_of(directory: Path) -> Path:
    """Return the directory that has a model's tokenizer; a run's checkpoint shares the final model's or the data's."""
    places = tokenizer_places(directory, run_of(directory))
    return next((place for place in places if any((place / name).is_file() for name in TOKENIZER_FILES)), directory)
