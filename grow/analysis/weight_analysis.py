"""All analyses of one checkpoint's weights, matrix by matrix, with only a few tensors in memory at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from grow.analysis.copies import column_copies, find_line
from grow.analysis.expert_overlap import expert_overlap, group_experts
from grow.analysis.rank import effective_rank, numerical_rank, singular_values
from grow.analysis.symmetry import symmetry
from grow.families.build import load_config
from grow.families.family import Family
from grow.families.registry import family_of
from grow.families.weights import WeightReader


@dataclass(kw_only=True, slots=True)
class WeightAnalysis:
    """Results by matrix, under the names in the checkpoint."""

    symmetry: dict[str, float] = field(default_factory=dict)
    effective_rank: dict[str, float] = field(default_factory=dict)
    numerical_rank: dict[str, int] = field(default_factory=dict)
    expert_overlap: dict[str, float] = field(default_factory=dict)
    spectra: dict[str, list[float]] = field(default_factory=dict)
    """Singular values, largest first."""

    def metrics(self) -> dict[str, float]:
        """Return analysis/KIND/MATRIX and analysis/KIND/mean, for symmetry, effective_rank and expert_overlap."""
        kinds = {name: getattr(self, name) for name in ("symmetry", "effective_rank", "expert_overlap")}
        means = {f"analysis/{kind}/mean": mean(found.values()) for kind, found in kinds.items() if found}
        every = {f"analysis/{kind}/{matrix}": value for kind, found in kinds.items() for matrix, value in found.items()}
        return means | every


def analyze_weights(
    directory: Path,
    growth: Mapping[str, Any] | None,
    layers: list[int] | None = None,
    *,
    part: int = 0,
    parts: int = 1,
    heartbeat: Callable[[str], None] = lambda name: None,
) -> WeightAnalysis:
    """Analyze a stock model directory, or one process's share of its matrices.

    Args:
        directory: Directory of the weights.
        growth: Content of growth.json; None for a model that was not grown, whose matrices have no copies.
        layers: Layers whose spectra are computed, from 0; None takes the first, quarter, middle and last.
        part: Number of this process; it takes every `parts`-th matrix from this one on. `merged` joins the results.
        parts: Number of processes that share the matrices.
        heartbeat: Called with the name of each matrix before it is analyzed.

    Raises:
        CheckpointError: the directory holds no complete model.
        GrowthError: Grow does not know the model's family.
    """
    reader, config = WeightReader(directory), load_config(directory)
    family = family_of(config.model_type)
    chosen = _paper_layers(family.sizes(config)["layers"]) if layers is None else layers
    names = sorted(reader.names)
    copies = {} if growth is None else column_copies(config, growth, names)
    found = WeightAnalysis()
    for name in names[part::parts]:
        spectral = _is_linear_of(family, name, chosen)
        if name not in copies and not spectral:
            continue
        heartbeat(name)
        weight = reader.read(name)
        if name in copies:
            found.symmetry[name] = symmetry(weight, copies[name])
        if spectral:
            values = singular_values(weight)
            found.effective_rank[name] = effective_rank(values)
            found.numerical_rank[name] = numerical_rank(values, max(weight.shape))
            found.spectra[name] = [float(f"{value:.4g}") for value in values.tolist()]
    for matrix, members in list(group_experts(names).items())[part::parts]:
        heartbeat(matrix)
        found.expert_overlap[matrix] = expert_overlap(torch.stack([reader.read(name) for name in members]))
    return found


def merged(analyses: Sequence[WeightAnalysis]) -> WeightAnalysis:
    """Merge analyses of different matrices of one checkpoint into one."""
    found = WeightAnalysis()
    for kind in fields(WeightAnalysis):
        every = [pair for analysis in analyses for pair in getattr(analysis, kind.name).items()]
        setattr(found, kind.name, dict(sorted(every)))
    return found


def _paper_layers(layers: int) -> list[int]:
    """Return the first, quarter, middle and last layer, from 0; the paper takes 1, 6, 13 and 24 of 24, from 1."""
    return sorted({0, layers // 4, layers // 2, layers - 1})


def _is_linear_of(family: Family, name: str, layers: list[int]) -> bool:
    """Return whether a parameter is a linear weight of one of the layers."""
    line = find_line(family, name)
    match = None if line is None else line.pattern.fullmatch(name)
    if line is None or line.reads is None or match is None:
        return False
    return "layer" in match.groupdict() and int(match["layer"]) in layers
