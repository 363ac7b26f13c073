"""Configuration of the growth package: orthogonal fields; a paper is a preset over them. Imports nothing heavy."""

from dataclasses import dataclass

from grow.common.errors import ConfigError

SHARES = ("symmetric", "diagonal")


@dataclass(kw_only=True, slots=True)
class GrowthSettings:
    """How a bigger model is made from a smaller one."""

    name: str
    reference: str = ""
    """The paper this preset stands for."""
    source: str | None = None
    """Checkpoint directory or hub id to grow from; overrides the model's `grown_from`."""
    share: str = "symmetric"
    """How the copies of an input share its weight: `symmetric` gives each 1/n, `diagonal` gives copy i to output copy i."""
    snr_db: float | None = None
    """Power of a divided block over that of the noise added to it, in dB; null adds none."""
    seed: int = 0
    """Seed of the noise."""

    def __post_init__(self) -> None:
        if self.share not in SHARES:
            raise ConfigError(f"growth.share={self.share!r}: expected one of {', '.join(SHARES)}.")
