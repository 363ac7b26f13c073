"""What `checkpoint=` means: where the weights are, whose tokenizer they need, and how much training they have seen.

    RUN                              RUN/model
    RUN/model, RUN/average,          as they are; the run is the nearest directory above with a run.json
    RUN/checkpoints/step-00000500
    any stock model directory        as it is; what it has seen is what its lineage.json says, if it has one
    owner/name                       a download from the hub

The tokenizer is the first one found beside the weights, in RUN/model, or in the data the run was trained on.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from grow.common.errors import CheckpointError, DataError
from grow.common.provenance import (
    COMPLETE_FILE,
    RUN_FILE,
    STATE_FILE,
    clock_of,
    data_of,
    digest_json,
    read_json,
    read_lineage,
    run_of,
)
from grow.common.rows import CLOCK, last_clock
from grow.data.shards import TOKENIZER_DIR, tokenizer_places
from grow.data.tokenizer import load_tokenizer, vocabulary_size
from grow.families.build import load_config
from grow.families.registry import family_of
from grow.families.source_directory import find_source
from grow.families.weights import WeightReader

PADDING = 1024  # ids below this many beyond the tokenizer's are padding, as OLMo's 50,304 for 50,280


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredCheckpoint:
    """A model on disk, found and looked at but not loaded."""

    model: Path
    """Directory of weights and config.json."""
    run: Path | None
    """Directory of the run it belongs to."""
    name: str
    """Short, and safe as a directory: model, average, step-00000500, EleutherAI--pythia-70m."""
    clock: dict[str, int | float]
    """step, tokens, flops and seconds as far as they are known."""

    @property
    def averaged(self) -> bool:
        """Whether these are averaged weights of a run, by where they lie in it."""
        return self.run is not None and any(
            part.startswith("average") for part in self.model.relative_to(self.run).parts
        )

    @property
    def sequence_length(self) -> int:
        """Tokens of the sequences it was trained on; what it can take, up to 2,048, where nobody recorded that."""
        if self.run is not None:
            return int(read_json(self.run / RUN_FILE)["model"]["sequence_length"])
        return min(2048, int(load_config(self.model).max_position_embeddings))


def find_checkpoint(name: str) -> ScoredCheckpoint:
    """Find a model and check everything about it that can be seen without loading it.

    Raises:
        CheckpointError: there is none, it is incomplete or damaged.
        GrowthError: it is of a family that Grow does not know.
    """
    path = Path(name)
    is_run = (path / RUN_FILE).is_file()
    if is_run and not (path / "model").is_dir():
        saved = sorted(found.relative_to(path) for found in path.glob("*/step-*") if (found / "config.json").is_file())
        raise CheckpointError(
            f"{path}: this run has not exported a model yet. Finish it, or evaluate one of its checkpoints: "
            f"{', '.join(map(str, saved)) or 'it has none'}."
        )
    model = find_source(name)
    family_of(load_config(model).model_type)
    WeightReader(model)
    if (model / STATE_FILE).is_file() and not (model / COMPLETE_FILE).is_file():
        raise CheckpointError(f"{model}: this checkpoint was never finished (it has no {COMPLETE_FILE}). Take another.")
    run = path if is_run else run_of(path)
    label = model.name if run is not None else name.strip("/").replace("/", "--")
    return ScoredCheckpoint(model=model, run=run, name=label, clock=_clock(model, run))


def _clock(model: Path, run: Path | None) -> dict[str, int | float]:
    """What had been trained when these weights were written; tokens of the run itself, not of its source."""
    if run is not None and (model / STATE_FILE).is_file():
        clock = clock_of(model)
        return {**clock, "seconds": round(clock["seconds"], 3)}
    if run is not None:
        return last_clock(run)
    lineage = read_lineage(model)
    spent = {} if lineage is None else {name: getattr(lineage, name) for name in CLOCK[1:]}
    return {name: value for name, value in spent.items() if value is not None}


def find_tokenizer(checkpoint: ScoredCheckpoint, given: str | None) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint.

    Args:
        checkpoint: the model.
        given: directory or hub id; None looks where it may lie.

    Raises:
        DataError: there is none, or it is of another vocabulary than the model.
    """
    looked_in = [given] if given is not None else list(map(str, tokenizer_places(checkpoint.model, checkpoint.run)))
    place = given or next((place for place in looked_in if (Path(place) / "tokenizer.json").is_file()), None)
    if place is None:
        raise DataError(
            f"{checkpoint.model}: expected a tokenizer.json in one of {', '.join(looked_in)}, found none. Give one: "
            "tokenizer=DIRECTORY_OR_HUB_ID."
        )
    tokenizer = load_tokenizer(place)
    _check_size(checkpoint, tokenizer, place)
    trained_on = data_dir(checkpoint)
    if trained_on is not None and (trained_on / TOKENIZER_DIR / "tokenizer.json").is_file():
        check_same_vocabulary(tokenizer, place, trained_on)
    return tokenizer


def check_same_vocabulary(tokenizer: PreTrainedTokenizerFast, place: str, shards: Path) -> None:
    """Refuse a tokenizer whose ids mean other words than those of token shards.

    Raises:
        DataError: they do.
    """
    if load_tokenizer(str(shards / TOKENIZER_DIR)).get_vocab() != tokenizer.get_vocab():
        raise DataError(
            f"{place}: this is another tokenizer than the one {shards} was made with, so their ids mean different "
            "words. Leave tokenizer= out, or give heldout= and tokenizer= that belong together."
        )


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of what decides a text's ids and the prefix of an empty one."""
    ends = tokenizer.bos_token_id, tokenizer.eos_token_id
    return digest_json([json.loads(tokenizer.backend_tokenizer.to_str()), ends])


def data_dir(checkpoint: ScoredCheckpoint) -> Path | None:
    """The token shards that the checkpoint's run was trained on."""
    return None if checkpoint.run is None else data_of(checkpoint.run)


def _check_size(checkpoint: ScoredCheckpoint, tokenizer: PreTrainedTokenizerFast, place: str) -> None:
    model_size, own_size = load_config(checkpoint.model).vocab_size, vocabulary_size(tokenizer)
    if not model_size - PADDING < own_size <= model_size:
        raise DataError(
            f"{place}: this tokenizer has {own_size:,} ids, the model in {checkpoint.model} {model_size:,}. Its words "
            "would mean something else to the model; give the one it was trained with: tokenizer=DIRECTORY_OR_HUB_ID."
        )
