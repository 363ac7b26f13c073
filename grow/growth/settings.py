"""Configuration of the growth package: orthogonal fields; a paper is a preset over them. Imports nothing heavy."""

from dataclasses import dataclass

from grow.common.errors import ConfigError

SHARES = ("symmetric", "diagonal", "none")


@dataclass(kw_only=True, slots=True)
class GrowthSettings:
    """How a bigger model is made from a smaller one."""

    name: str
    reference: str = ""
    """The paper this preset stands for."""
    source: str | None = None
    """Checkpoint directory or hub id to grow from; overrides the model's `grown_from`."""
    share: str = "symmetric"
    """How the copies of an input share its weight: `symmetric` gives each 1/n, `diagonal` gives copy i to output
    copy i, `none` allows no copies: the target has the source's sizes."""
    snr_db: float | None = None
    """Power of a divided block over that of the noise added to it, in dB; null adds none."""
    seed: int = 0
    """Seed of the noise."""

    def __post_init__(self) -> None:
        if self.share not in SHARES:
            raise ConfigError(f"growth.share={self.share!r}: expected one of {', '.join(SHARES)}.")


@dataclass(kw_only=True, slots=True)
class ScaleSettings:
    """By how much each size of a source is multiplied where no target model is named."""

    embed: int = 2
    heads: int = 2
    kv_heads: int | None = None
    """null: as `heads`, but a single key-value head stays single."""
    head_dim: int = 1
    ffn: int = 2

    def __post_init__(self) -> None:
        for name in ("embed", "heads", "kv_heads", "head_dim", "ffn"):
            factor = getattr(self, name)
            if factor is not None and factor < 1:
                raise ConfigError(f"scale.{name}={factor}: expected a whole factor of at least 1.")
