"""Configuration of the distributed package: how a run is spread over processes. Imports nothing heavy."""

from dataclasses import dataclass

from grow.common.checks import one_of, positive

STRATEGIES = ("single", "ddp", "zero1", "zero2", "zero3", "fsdp2")
SHARDED = ("zero1", "zero2", "zero3", "fsdp2")


@dataclass(kw_only=True, slots=True)
class StrategySettings:
    """How a run is spread over processes. Ranks are started from outside, by torchrun or srun."""

    name: str
    kind: str
    """single; ddp; zero1, zero2, zero3 (DeepSpeed: optimizer state, and gradients, and weights in shards); fsdp2."""
    devices: int | None = None
    """Processes, one a device, that the run expects; null takes those that were started."""
    insist: bool = False
    """Shard even with one process, where it is pure cost."""
    timeout_s: float = 1800.0
    """Seconds that ranks wait for one another before the run is given up."""

    def __post_init__(self) -> None:
        one_of("strategy.kind", self.kind, STRATEGIES)
        positive("strategy.timeout_s", self.timeout_s)
        if self.devices is not None:
            positive("strategy.devices", self.devices)
