"""A tokenizer's tokenizer_config.json, as Transformers 4 and 5 both read it."""

from pathlib import Path

from grow.common.errors import CheckpointError
from grow.common.provenance import write_json
from grow.common.records import read_json

TOKENIZER_CONFIG = "tokenizer_config.json"
_OLDER_NAMES = {"TokenizersBackend": "PreTrainedTokenizerFast"}  # Transformers 5 reads both, Transformers 4 the older


def make_portable(directory: Path, positions: int | None = None) -> None:
    """Rewrite what only Transformers 5 understands, and say the length and the pad token that were left open.

    Names of code are dropped, since the code itself is never copied. A directory without the file is fine.

    Args:
        directory: Directory of a tokenizer.
        positions: Most tokens of a text that its model takes; None where no model belongs to it.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = directory / TOKENIZER_CONFIG
    if not path.is_file():
        return
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: expected a table of settings, found {type(settings).__name__}.")
    settings.pop("auto_map", None)
    name = settings.get("tokenizer_class")
    settings["tokenizer_class"] = _OLDER_NAMES.get(str(name), name)
    if settings.get("pad_token") is None and settings.get("eos_token") is not None:
        settings["pad_token"] = settings["eos_token"]
    if isinstance(extra := settings.get("extra_special_tokens"), list):  # a table of names in Transformers 4
        settings.setdefault("additional_special_tokens", extra)
        del settings["extra_special_tokens"]
    if positions is not None:
        settings["model_max_length"] = min(positions, settings.get("model_max_length") or positions)
    write_json(path, settings)
