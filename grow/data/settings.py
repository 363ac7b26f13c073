"""Configuration of the data package. Imports nothing heavy."""

import math
from dataclasses import dataclass
from typing import Any

from grow.common.checks import LARGEST_SIZE, from_to, not_negative, positive
from grow.common.errors import ConfigError

_MOST_SOURCES = 64  # of a mixture
_MOST_READ_AHEAD = 2**16


@dataclass(kw_only=True, slots=True)
class StageSettings:
    """A part of a run, with its mixture of sources."""

    from_tokens: int
    """Tokens of the run at which the stage begins; it begins with the next block of 4,096 sequences."""
    weights: dict[str, float]
    """Weight of each source; one that is not named is not read."""


@dataclass(kw_only=True, slots=True)
class DataSettings:
    """Token shards to train on, and the length of the sequences cut from them."""

    name: str
    path: str
    """Directory of token shards with a manifest.json (see grow/data/shards.py)."""
    sequence_length: int
    """Tokens of one training sequence: the model reads this many inputs and predicts as many targets."""
    prepare: str | None = None
    """Name of an embedded corpus (grow/preparation/corpus.py) that is prepared on first use when `path` is empty."""
    damaged_tokens: list[int] | None = None
    """For experiments: [FIRST, END] in tokens of the run; training sequences that begin between them are random ids."""
    mixture: Any = None
    """Weight of each source, e.g. {wikipedia: 0.3, shakespeare: 0.7}; null reads all text in one random order. The type
    is open because OmegaConf merges no dictionary into a typed null."""
    stages: list[StageSettings] | None = None
    """In place of `mixture`: mixtures that follow each other, by the tokens of the run at which they begin."""
    max_epochs: float | None = None
    """Largest number of times that a source may be read; a run that would read one more often is refused."""
    read_ahead: int = 64
    """Sequences that the system is asked to fetch from disk before they are read; 0 asks for none."""

    def __post_init__(self) -> None:
        if not 2 <= self.sequence_length <= LARGEST_SIZE:
            raise ConfigError(
                f"data.sequence_length={self.sequence_length}: expected at least 2 tokens, and at most {LARGEST_SIZE}."
            )
        if self.damaged_tokens is not None and not (
            len(self.damaged_tokens) == 2 and 0 <= self.damaged_tokens[0] < self.damaged_tokens[1]
        ):
            raise ConfigError(f"data.damaged_tokens={self.damaged_tokens}: expected [FIRST, END], FIRST before END.")
        if self.max_epochs is not None:
            positive("data.max_epochs", self.max_epochs)
        from_to("data.read_ahead", self.read_ahead, 0, _MOST_READ_AHEAD)
        if self.mixture is not None:
            _check_weights("data.mixture", self.mixture)
        if self.stages is not None:
            self._check_stages(self.stages)

    def _check_stages(self, stages: list[StageSettings]) -> None:
        if self.mixture is not None:
            raise ConfigError("data.stages and data.mixture: expected one of the two. A mixture is a single stage.")
        starts = [stage.from_tokens for stage in stages]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ConfigError(f"data.stages: expected from_tokens to begin with 0 and to rise, found {starts}.")
        for stage in stages:
            _check_weights("data.stages", stage.weights)
        if len({source for stage in stages for source in stage.weights}) > _MOST_SOURCES:
            raise ConfigError(f"data.stages: expected at most {_MOST_SOURCES} sources in all.")


def _check_weights(key: str, weights: Any) -> None:
    if not isinstance(weights, dict) or not {type(weight) for weight in weights.values()} <= {int, float}:
        raise ConfigError(f"{key}={weights!r}: expected numbers by source, e.g. {{wikipedia: 0.3, shakespeare: 0.7}}.")
    for source, weight in weights.items():
        not_negative(f"{key}.{source}", weight)
    if not 0 < sum(weights.values()) < math.inf or len(weights) > _MOST_SOURCES:
        raise ConfigError(f"{key}={weights}: expected weights of 1 to {_MOST_SOURCES} sources, with a sum above 0.")
