"""What lies beside a checkpoint's weights: configuration, tokenizer, and what was spent on it."""

import shutil
from pathlib import Path

from grow.common.provenance import RUN_FILE, Lineage, read_json, read_lineage
from grow.data.shards import TOKENIZER_DIR
from grow.families.weights import TOKENIZER_FILES, copy_tokenizer

_CONFIG_FILES = ("config.json", "generation_config.json")
_STATE_FILE = "state.json"  # of a run's checkpoint


def carry(source: Path, target: Path) -> None:
    """Copy configuration and tokenizer from one model directory to another, as far as there are any."""
    for name in _CONFIG_FILES:
        if (source / name).is_file():
            shutil.copy2(source / name, target / name)
    copy_tokenizer(_tokenizer_of(source), target)


def spent_on(directory: Path) -> Lineage | None:
    """What a model has cost up to a checkpoint, its sources included, or None where nobody recorded it."""
    run = _run_of(directory)
    if run is None:
        return read_lineage(directory)
    state, facts = read_json(directory / _STATE_FILE), read_json(run / RUN_FILE)
    own = {
        "tokens": state["tokens"],
        "flops": state["tokens"] * facts["model"]["flops_per_token"],
        "seconds": state["seconds"],
    }
    before = facts["lineage"]
    total = {
        name: cost if before is None else None if before[name] is None else before[name] + cost
        for name, cost in own.items()
    }
    return Lineage(source=str(directory), digest="", **total)


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
    is_one = (checkpoint / _STATE_FILE).is_file() and (run / RUN_FILE).is_file()
    return run if is_one else None
