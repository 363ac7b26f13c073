"""The architecture of a run: a named model's, a source's own with its sizes multiplied, or one that holds several."""

from collections.abc import Sequence

from transformers import PreTrainedConfig

from grow.common.errors import GrowthError
from grow.families.build import load_config, model_on_meta
from grow.families.family import Family
from grow.families.registry import family_of, stock_config
from grow.families.settings import ArchitectureSettings, ModelSettings
from grow.families.source_directory import find_source
from grow.families.table import find_parameter
from grow.growth.settings import GrowthSettings, ScaleSettings

ADDED_SIZES = ("embed", "word", "heads", "kv_heads", "ffn")
"""Sizes that add up where sources are joined side by side."""


def architecture_of(
    model: ArchitectureSettings,
    sources: Sequence[str] = (),
    growth: GrowthSettings | None = None,
    scale: ScaleSettings | None = None,
) -> PreTrainedConfig:
    """Return the stock configuration of a run's model.

    Args:
        model: Settings of the model.
        sources: Models whose sizes are multiplied, where `model` has none of its own.
        growth: How the sources are joined where there are several; None starts from noise.
        scale: Factors on the sizes of a source.

    Raises:
        ConfigError: transformers refuses the sizes, or several models are to be joined from noise.
        GrowthError: the family cannot have these sizes together.
        CheckpointError: a source is missing or damaged.
    """
    if isinstance(model, ModelSettings):
        return stock_config(model)
    configs = [load_config(find_source(source)) for source in sources]
    if growth is None:
        return scaled_target(configs[0], scale or ScaleSettings())
    return target_of(configs, growth, scale or ScaleSettings())


def target_of(sources: Sequence[PreTrainedConfig], growth: GrowthSettings, scale: ScaleSettings) -> PreTrainedConfig:
    """Return the architecture to grow into where no model is named: one that holds all sources, or a scaled one.

    Raises:
        GrowthError: the family cannot have these sizes together.
    """
    return joined_target(sources, growth) if len(sources) > 1 else scaled_target(sources[0], scale)


def scaled_target(source: PreTrainedConfig, scale: ScaleSettings) -> PreTrainedConfig:
    """Return the source's architecture with every size multiplied; its head is untied where a tied one is not exact.

    Raises:
        GrowthError: a factor does not give a whole size, or the family cannot have these sizes together.
    """
    family = family_of(source.model_type)
    sizes = family.sizes(source)
    single_kv_head = sizes["kv_heads"] == 1 < sizes["heads"]
    factors = {
        "embed": scale.embed,
        "word": scale.embed if sizes["word"] == sizes["embed"] else 1,  # a narrower table stays as narrow as it is
        "heads": scale.heads,
        "kv_heads": scale.kv_heads or (1 if single_kv_head else scale.heads),
        "head_dim": scale.head_dim,
        "ffn": scale.ffn,
        "layers": scale.layers,
    }
    grown = {size: _times(size, length, factors.get(size, 1)) for size, length in sizes.items()}
    target = family.resize(source, grown)
    if target.tie_word_embeddings and factors["word"] > 1 and not writes_head_input(family, target):
        target.tie_word_embeddings = False
    return target


def joined_target(configs: Sequence[PreTrainedConfig], growth: GrowthSettings) -> PreTrainedConfig:
    """Return the architecture that holds all sources.

    Beside each other: their widths added, and the most layers. Above each other: the largest widths, and all layers.

    Raises:
        GrowthError: the sources are of different families, or their family cannot have these sizes together.
    """
    family = family_of(configs[0].model_type)
    others = {config.model_type for config in configs} - {family.model_type}
    if others:
        raise GrowthError(f"sources of different families ({family.model_type}, {', '.join(others)}) cannot be joined.")
    sizes = [family.sizes(config) for config in configs]
    if growth.join == "beside":
        together = {size: sum(each[size] for each in sizes) for size in ADDED_SIZES}
        joined = {**sizes[0], **together, "layers": max(each["layers"] for each in sizes)}
    else:
        widest = {size: max(each[size] for each in sizes) for size in ADDED_SIZES}
        joined = {**sizes[0], **widest, "layers": sum(each["layers"] for each in sizes)}
    target = family.resize(configs[0], joined)
    tied = growth.join == "beside" and all(config.tie_word_embeddings for config in configs)
    target.tie_word_embeddings = tied and writes_head_input(family, configs[0])
    return target


def _times(size: str, length: int, factor: float) -> int:
    grown = round(length * factor)
    if abs(grown - length * factor) > 1e-6:
        raise GrowthError(
            f"{size}: {length} x {factor:g} is {length * factor:g}, not a whole number. "
            f"Choose scale.{size}={grown / length:.6g} for {grown}."
        )
    return grown


def writes_head_input(family: Family, config: PreTrainedConfig) -> bool:
    """Return whether a parameter writes what the head reads, so that it can absorb the factor of a tied head."""
    lines = (find_parameter(family.table, family.stored_name(name)) for name in model_on_meta(config).state_dict())
    return any((("head_in",),) in line.writes for line in lines if line is not None)
