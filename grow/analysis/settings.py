"""Configuration of the analysis package. Imports nothing heavy."""

from dataclasses import dataclass

from grow.common.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class AnalyzeConfig:
    """scripts/analyze.py: symmetry, rank and forgetting over all checkpoints of a run."""

    run: str
    """Run directory."""
    layers: list[int] | None = None
    """Layers whose spectra are taken, from 0; null takes the first, quarter, middle and last, as figure 5 does."""
    source: str | None = None
    """Run that was grown from; null takes the one that growth.json names. Its scores are what can be forgotten."""

    def __post_init__(self) -> None:
        if self.layers is not None and (not self.layers or min(self.layers) < 0):
            raise ConfigError(f"layers={self.layers}: expected layer numbers from 0, or null.")
