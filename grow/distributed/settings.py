"""Configuration of the distributed package: how a run is distributed over processes. Imports nothing heavy."""

from dataclasses import dataclass

from grow.common.checks import at_least_one, from_to, one_of, positive

STRATEGIES = ("single", "ddp", "zero1", "zero2", "zero3", "fsdp2")
_LONGEST_TIMEOUT_S = 1e8  # three years; timedelta and NCCL overflow at far more
SHARDED = ("zero1", "zero2", "zero3", "fsdp2")


@dataclass(kw_only=True, slots=True)
class StrategySettings:
    """How a run is distributed over processes, which torchrun or srun starts."""

    name: str
    kind: str
    """single; ddp; zero1, zero2, zero3 (DeepSpeed shards optimizer state, also gradients, also weights); fsdp2."""
    devices: int | None = None
    """Number of processes that the run expects, one for each device; null accepts any number."""
    insist: bool = False
    """Whether to shard even with one process, where sharding has a cost and no use."""
    timeout_s: float = 1800.0
    """Seconds that ranks wait for each other before the run is ended."""

    def __post_init__(self) -> None:
        one_of("strategy.kind", self.kind, STRATEGIES)
        positive("strategy.timeout_s", self.timeout_s)
        from_to("strategy.timeout_s", self.timeout_s, 0, _LONGEST_TIMEOUT_S)
        at_least_one("strategy.devices", self.devices)
