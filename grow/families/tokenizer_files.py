"""The files of a tokenizer in a model's directory."""

import shutil
from pathlib import Path

from grow.common.contained import contained_file, read_errors_named
from grow.common.records import read_json
from grow.data.tokenizer_config import TOKENIZER_CONFIG, make_portable

TOKENIZER_FILES = (
    *("tokenizer.json", TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja"),
)

GENERATION_FILE = "generation_config.json"


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files from one model directory to another; a source without any is fine.

    Args:
        source: Directory with a tokenizer.
        target: Directory with the config.json of the model that the tokenizer is for.

    Raises:
        CheckpointError: a file leads out of the source, is damaged, or was removed meanwhile.
    """
    for name in TOKENIZER_FILES:
        copy_file(source, name, target)
    make_portable(target, _positions(target))


def copy_model_files(source: Path, target: Path) -> None:
    """Copy what a model's directory holds besides its configuration and weights: tokenizer and generation_config.json.

    Raises:
        CheckpointError: a file leads out of the source, is damaged, or was removed meanwhile.
    """
    copy_tokenizer(source, target)
    copy_file(source, GENERATION_FILE, target)


def copy_file(source: Path, name: str, target: Path) -> None:
    """Copy a file of a directory into another one, if it is there.

    Raises:
        CheckpointError: the file leads out of the source, or was removed meanwhile.
    """
    file = contained_file(source, name)
    if file.is_file():
        with read_errors_named(file):
            shutil.copy2(file, target / name)


def _positions(directory: Path) -> int | None:
    """Return the most tokens that a directory's model takes; None where its configuration says none."""
    path = directory / "config.json"
    config = read_json(path) if path.is_file() else {}
    positions = config.get("max_position_embeddings") if isinstance(config, dict) else None
    return positions if isinstance(positions, int) else None
