"""The meaning of `checkpoint=`: where the weights are, which tokenizer they need, how much training they have had.

    RUN                              RUN/model
    RUN/model, RUN/average,          the directory; its run is the nearest directory above with a run.json
    RUN/checkpoints/step-00000500
    any stock model directory        the directory; its training is that of its lineage.json, if it has one
    owner/name                       a download from the hub

The tokenizer is the first one found in the directory of the weights, in RUN/model, and in the run's training data.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from grow.common.checkpoint_names import checkpoint_directories
from grow.common.errors import CheckpointError, DataError
from grow.common.provenance import (
    COMPLETE_FILE,
    RUN_FILE,
    STATE_FILE,
    clock_of,
    data_of,
    digest_json,
    read_lineage,
    run_of,
)
from grow.common.records import read_record
from grow.common.rows import CLOCK, last_clock
from grow.data.manifest import TOKENIZER_DIR
from grow.data.shards import tokenizer_places
from grow.data.tokenizer import load_tokenizer, vocabulary_size
from grow.families.build import load_config
from grow.families.registry import family_of
from grow.families.source_directory import find_source
from grow.families.weights import WeightReader

PADDING = 1024  # a model may have fewer than this many ids beyond its tokenizer's, as OLMo's 50,304 for 50,280


@dataclass(frozen=True, kw_only=True, slots=True)
class _Model:
    """Sizes of a run's model."""

    sequence_length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _RunModel:
    """What run.json says of the run's model."""

    model: _Model


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredCheckpoint:
    """A model on disk that was found and checked but not loaded."""

    model: Path
    """Directory of weights and config.json."""
    run: Path | None
    """Directory of the run it belongs to; None outside a run."""
    name: str
    """Short name that can be a directory: model, average, step-00000500, EleutherAI--pythia-70m."""
    clock: dict[str, int | float]
    """Those of step, tokens, flops and seconds that are known."""

    @property
    def averaged(self) -> bool:
        """Whether these are averaged weights of a run, which is known from their directory."""
        return self.run is not None and any(
            part.startswith("average") for part in self.model.relative_to(self.run).parts
        )

    @property
    def sequence_length(self) -> int:
        """Tokens of the sequences it was trained on; where nobody recorded them, its positions, at most 2,048."""
        if self.run is not None:
            return read_record(self.run / RUN_FILE, _RunModel).model.sequence_length
        return min(2048, int(load_config(self.model).max_position_embeddings))


def find_checkpoint(name: str) -> ScoredCheckpoint:
    """Find a model and check all that can be checked without loading it.

    Args:
        name: Run directory, model directory or hub id.

    Raises:
        CheckpointError: there is no such model, or it is incomplete or damaged.
        GrowthError: Grow does not know the model's family.
    """
    path = Path(name)
    is_run = (path / RUN_FILE).is_file()
    if is_run and not (path / "model").is_dir():
        found = [each for each in checkpoint_directories(path / "checkpoints") if (each / "config.json").is_file()]
        raise CheckpointError(
            f"{path}: this run has not exported a model yet. Finish it, or evaluate one of its checkpoints: "
            f"{', '.join(str(each.relative_to(path)) for each in found) or 'it has none'}."
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
    """Return the clock at which these weights were written: that of the run itself, without its source's."""
    if run is not None and (model / STATE_FILE).is_file():
        clock = clock_of(model)
        return {**clock, "seconds": round(clock["seconds"], 3)}
    if run is not None:
        return last_clock(run)
    lineage = read_lineage(model)
    spent = {} if lineage is None else {name: getattr(lineage, name) for name in CLOCK[1:]}
    return {name: value for name, value in spent.items() if value is not None}


def find_tokenizer(checkpoint: ScoredCheckpoint, given: str | None) -> PreTrainedTokenizerFast:
    """Find and load the tokenizer of a checkpoint.

    Args:
        checkpoint: Model whose tokenizer is needed.
        given: Directory or hub id of the tokenizer; None searches the places named at the top of this module.

    Raises:
        DataError: there is none, or its vocabulary is not the model's.
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

    Args:
        tokenizer: Tokenizer to check.
        place: Where it was found, for the error message.
        shards: Directory of token shards.

    Raises:
        DataError: the vocabularies differ.
    """
    if load_tokenizer(str(shards / TOKENIZER_DIR)).get_vocab() != tokenizer.get_vocab():
        raise DataError(
            f"{place}: this is another tokenizer than that of {shards}, so their ids mean different words. Leave "
            "tokenizer= out, or give heldout= and tokenizer= that belong together."
        )


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the SHA-256 of all that decides the ids of a text and the prefix of an empty context."""
    ends = tokenizer.bos_token_id, tokenizer.eos_token_id
    return digest_json([json.loads(tokenizer.backend_tokenizer.to_str()), ends])


def data_dir(checkpoint: ScoredCheckpoint) -> Path | None:
    """Return the token shards that the checkpoint's run was trained on; None where they are not known."""
    return None if checkpoint.run is None else data_of(checkpoint.run)


def _check_size(checkpoint: ScoredCheckpoint, tokenizer: PreTrainedTokenizerFast, place: str) -> None:
    model_size, own_size = load_config(checkpoint.model).vocab_size, vocabulary_size(tokenizer)
    if not model_size - PADDING < own_size <= model_size:
        raise DataError(
            f"{place}: this tokenizer has {own_size:,} ids, but the model in {checkpoint.model} has {model_size:,}, so "
            "their ids mean different words. Give the tokenizer that the model was trained with: "
            "tokenizer=DIRECTORY_OR_HUB_ID."
        )
