"""Configuration of the estimate package. Imports nothing heavy."""

from dataclasses import dataclass

from grow.common.checks import positive
from grow.common.errors import ConfigError
from grow.common.gpus import GPUS, gpu_memory_bytes, known_gpu, peak_flops


@dataclass(kw_only=True, slots=True)
class EstimateSettings:
    """The machine that scripts/estimate.py reckons with."""

    gpu: str = "H100"
    """Name of a GPU in the table of peaks; memory and peak follow from it."""
    mfu: float = 0.4
    """Fraction of the peak that training reaches; `perf/mfu` of an earlier run tells."""
    memory_gb: float | None = None
    """Memory of one GPU in GB (1e9 bytes); null takes the table's."""
    peak_tflops: float | None = None
    """Dense bfloat16 TFLOP/s of one GPU; null takes the table's."""
    disk_gb_per_s: float = 1.0
    """GB (1e9 bytes) a second that all ranks together write to the run directory."""
    reserve: float = 0.1
    """Fraction of the memory left to CUDA, NCCL and fragmentation."""

    def __post_init__(self) -> None:
        for name in ("mfu", "reserve"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"estimate.{name}={getattr(self, name)}: expected a share between 0 and 1.")
        positive("estimate.disk_gb_per_s", self.disk_gb_per_s)
        for name in ("memory_gb", "peak_tflops"):
            if getattr(self, name) is not None:
                positive(f"estimate.{name}", getattr(self, name))

    def find_gpu(self, own: tuple[str, float] | None = None) -> "GpuFigures":
        """Return the figures of one GPU: those that are given, else this machine's own memory, else the table's.

        Args:
            own: Name and bytes of memory of a GPU of this machine, which count where it is the card asked for.

        Raises:
            ConfigError: the GPU is not in the table and its figures were not given.
        """
        memory = self.memory_gb * 1e9 if self.memory_gb else gpu_memory_bytes(self.gpu)
        if own is not None and not self.memory_gb and known_gpu(own[0]) == known_gpu(self.gpu) is not None:
            memory = own[1]
        peak = self.peak_tflops * 1e12 if self.peak_tflops else peak_flops(self.gpu)
        if memory is None or peak is None:
            raise ConfigError(
                f"estimate.gpu={self.gpu}: expected one of {', '.join(GPUS)}. For another GPU give estimate.memory_gb "
                "and estimate.peak_tflops."
            )
        return GpuFigures(name=self.gpu, memory_bytes=memory, usable_bytes=memory * (1 - self.reserve), peak_flops=peak)


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuFigures:
    """What one GPU offers a run."""

    name: str
    memory_bytes: float
    usable_bytes: float
    """Memory without the reserve."""
    peak_flops: float
    """Dense bfloat16 FLOP/s."""
