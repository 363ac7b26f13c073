"""Configuration of the analysis package. Imports nothing heavy."""

from dataclasses import dataclass

from grow.common.checks import at_least_one
from grow.common.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class AnalysisSettings:
    """Analyses of the weights during training: symmetry, rank, expert overlap and forgetting."""

    name: str
    every_tokens: int | None = None
    """Analyze right after growth, every so many tokens, and at the end; null: never."""
    layers: list[int] | None = None
    """Layers whose spectra are computed, from 0; null takes the first, quarter, middle and last, as in figure 5 of
    arXiv 2409.12903."""

    def __post_init__(self) -> None:
        at_least_one("analysis.every_tokens", self.every_tokens)
        _check_layers("analysis.layers", self.layers)


@dataclass(kw_only=True, slots=True)
class AnalyzeConfig:
    """scripts/analyze.py: computes symmetry, rank and forgetting over all checkpoints of a run."""

    run: str
    """Run directory."""
    layers: list[int] | None = None
    """Layers whose spectra are computed, from 0; null takes the first, quarter, middle and last, as in figure 5 of
    arXiv 2409.12903."""
    source: str | None = None
    """Run of the source, against whose scores forgetting is measured; null takes the one that growth.json names."""

    def __post_init__(self) -> None:
        _check_layers("layers", self.layers)


def _check_layers(key: str, layers: list[int] | None) -> None:
    if layers is not None and (not layers or min(layers) < 0):
        raise ConfigError(f"{key}={layers}: expected layer numbers from 0, or null.")
