"""The architecture to grow into: the source's own, with its sizes multiplied."""

from transformers import PreTrainedConfig

from grow.common.errors import GrowthError
from grow.families.build import model_on_meta
from grow.families.family import Family
from grow.families.registry import family_of
from grow.families.table import find_parameter
from grow.growth.settings import ScaleSettings


def scaled_target(source: PreTrainedConfig, scale: ScaleSettings) -> PreTrainedConfig:
    """The source's architecture with every size multiplied; its head is untied where it could not stay exact.

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


def _times(size: str, length: int, factor: float) -> int:
    grown = round(length * factor)
    if abs(grown - length * factor) > 1e-6:
        raise GrowthError(
            f"{size}: {length} x {factor:g} is {length * factor:g}, not a whole number. "
            f"Choose scale.{size}={grown / length:.6g} for {grown}."
        )
    return grown


def writes_head_input(family: Family, config: PreTrainedConfig) -> bool:
    """Whether a parameter writes what the head reads, so that it can absorb the factor a tied head would add."""
    lines = (find_parameter(family.table, family.stored_name(name)) for name in model_on_meta(config).state_dict())
    return any((("head_in",),) in line.writes for line in lines if line is not None)
