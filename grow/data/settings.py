"""Configuration of the data package. Imports nothing heavy."""

from dataclasses import dataclass

from grow.common.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class DataSettings:
    """Token shards to train on, and how they are cut into sequences."""

    name: str
    path: str
    """Directory of token shards with a manifest.json (see grow/data/shards.py)."""
    sequence_length: int
    """Tokens a training sequence; the model sees this many inputs and predicts as many targets."""
    prepare: str | None = None
    """Name of an embedded corpus (grow/data/corpus.py) that is prepared on first use when `path` is empty."""

    def __post_init__(self) -> None:
        if self.sequence_length < 2:
            raise ConfigError(f"data.sequence_length={self.sequence_length}: expected at least 2 tokens.")
