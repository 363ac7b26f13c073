"""The configuration of scripts/grow_checkpoint.py: a growth without a run."""

from dataclasses import dataclass, field

from grow.common.checks import at_least_one, positive
from grow.common.errors import ConfigError
from grow.families.settings import ModelSettings
from grow.growth.settings import GrowthSettings, ScaleSettings


@dataclass(kw_only=True, slots=True)
class GrowCheckpointConfig:
    """scripts/grow_checkpoint.py: one checkpoint directory or several in, a bigger one out."""

    source: str | None
    output: str
    growth: GrowthSettings
    model: ModelSettings | None = None
    scale: ScaleSettings = field(default_factory=ScaleSettings)
    workers: int | None = None
    """Weight files written at the same time, each with one tensor in memory; null: one for each core, up to 8."""
    shard_gb: float = 5.0
    """Largest size of a weight file in gigabytes; smaller files keep more workers busy."""

    def __post_init__(self) -> None:
        at_least_one("workers", self.workers)
        positive("shard_gb", self.shard_gb)
        self.scale.refuse_smaller()
        if (self.source is None) == (self.growth.sources is None):
            raise ConfigError("expected source=DIRECTORY_OR_HUB_ID, or growth.sources=[ONE,TWO] to join several.")
