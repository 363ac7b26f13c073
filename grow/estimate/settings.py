"""Configuration of the estimate package. Imports nothing heavy."""

from dataclasses import dataclass

from grow.common.checks import positive
from grow.common.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class EstimateSettings:
    """The machine that scripts/estimate.py reckons with."""

    gpu: str = "H100"
    """Name of a GPU in the table of peaks; memory and peak follow from it."""
    mfu: float = 0.4
    """Share of the peak that training reaches; `perf/mfu` of an earlier run tells."""
    memory_gb: float | None = None
    """Memory of one GPU in GB (1e9 bytes); null takes the table's."""
    peak_tflops: float | None = None
    """Dense bfloat16 TFLOP/s of one GPU; null takes the table's."""
    reserve: float = 0.1
    """Share of the memory left to CUDA, NCCL and fragmentation."""

    def __post_init__(self) -> None:
        for name in ("mfu", "reserve"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"estimate.{name}={getattr(self, name)}: expected a share between 0 and 1.")
        for name in ("memory_gb", "peak_tflops"):
            if getattr(self, name) is not None:
                positive(f"estimate.{name}", getattr(self, name))
