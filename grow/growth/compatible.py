"""Refuses pairs of architectures that no growth connects, naming what differs, before any weight is read."""

from collections.abc import Mapping
from copy import deepcopy

from transformers import PreTrainedConfig

from grow.common.errors import GrowthError
from grow.families.family import Family
from grow.growth.settings import GrowthSettings
from grow.growth.target import writes_head_input

_GRID_SCALING = ("default", "linear", "llama3")  # kinds of rope whose frequencies depend only on the base and the pair


def check_growable(family: Family, source: PreTrainedConfig, target: PreTrainedConfig) -> None:
    """Refuse a source and a target that no growth connects.

    Raises:
        GrowthError: naming every attribute that differs.
    """
    if target.model_type != source.model_type:
        raise GrowthError(
            f"the source is a {source.model_type} model, the target a {target.model_type} model. Growth stays within a "
            "family: choose a target of the source's family, or another growth.source."
        )
    differences = family.differences(source, target)
    if differences:
        listed = ", ".join(f"{name}: {old!r} -> {new!r}" for name, (old, new) in differences.items())
        raise GrowthError(
            f"source and target compute different functions whatever their weights ({listed}). "
            "Choose a target of the source's kind, or set these on the target."
        )
    beyond = family.unsupported(source) or family.unsupported(target)
    if beyond:
        raise GrowthError(f"Grow cannot grow a {family.model_type} model with {beyond}: its axis table has none.")
    before, after = family.sizes(source), family.sizes(target)
    if before["vocab"] != after["vocab"]:
        raise GrowthError(
            f"vocab: {before['vocab']} in the source, {after['vocab']} in the target. Growth keeps it; "
            f"choose a target with vocab={before['vocab']}."
        )
    if before["positions"] != after["positions"]:
        _check_positions(family, source, before["positions"], after["positions"])
    copies, rest = divmod(after["head_dim"], before["head_dim"])
    if copies != 1 and not rest:  # the axes refuse what is no multiple
        _check_head_dim(family, source, target, copies)


def check_layers(family: Family, source: PreTrainedConfig, target: PreTrainedConfig, layers: list[int]) -> None:
    """Refuse target layers that compute attention otherwise than the source layers they start from.

    Raises:
        GrowthError: naming the layers, or what makes a layer depend on its depth.
    """
    expected = deepcopy(target)
    family.with_layers(expected, [(source, layer) for layer in layers])
    wrong = family.other_layers(expected, target)
    if wrong:
        raise GrowthError(
            f"layers {', '.join(map(str, wrong))} of the target attend otherwise than the source's layers that they "
            "start from (layer_types). Leave the layers' kinds to the growth, or choose another growth.depth."
        )
    reason = family.depends_on_place(source)
    if reason and layers != list(range(len(layers))):
        raise GrowthError(f"layers cannot be added to this model: {reason}. Grow its width alone.")


def _check_positions(family: Family, source: PreTrainedConfig, before: int, after: int) -> None:
    """Refuse another number of positions where the model's function depends on it."""
    learned = any((("positions",),) in line.writes for line in family.table)
    kinds = [kind for kind in _rope_kinds(source) if kind not in _GRID_SCALING]
    if learned or kinds:
        what = "a table of learned positions" if learned else f"rope_type={kinds[0]!r}, which scales with their number"
        raise GrowthError(
            f"positions: {before} in the source, {after} in the target. The source has {what}, and growth keeps it; "
            f"set model.max_positions={before}."
        )


def _rope_kinds(config: PreTrainedConfig) -> list[str]:
    """Return the kinds of rotary positions of a model: one, or one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer = [each for each in rope.values() if isinstance(each, dict)]
    return [each.get("rope_type", "default") for each in by_layer or [rope]]


def _check_head_dim(family: Family, source: PreTrainedConfig, target: PreTrainedConfig, copies: int) -> None:
    before, after = family.rotary_dims(source), family.rotary_dims(target)
    if after != before * copies:
        raise GrowthError(
            f"head_dim cannot grow exactly where the rotated elements of a head grow from {before} to {after}, not "
            f"{copies}-fold: their share of it is no whole number of pairs. Grow the number of heads instead "
            "(scale.heads)."
        )
    clip = getattr(source, "clip_qkv", None)
    if clip is not None:
        raise GrowthError(
            f"head_dim cannot grow exactly where queries are clipped (clip_qkv={clip}): grown queries are larger. "
            "Grow the number of heads instead (scale.heads)."
        )
    kind = next((kind for kind in _rope_kinds(source) if kind not in _GRID_SCALING), None)
    if kind is not None:
        raise GrowthError(
            f"head_dim cannot grow exactly under rope_type={kind!r}, whose frequencies depend on head_dim itself. "
            "Grow the number of heads instead (scale.heads)."
        )


def check_trained_head(source: PreTrainedConfig, target: PreTrainedConfig) -> None:
    """Refuse a target whose tied head would drop the one that the source has trained.

    Raises:
        GrowthError: the source's head is its own, the target's is the embedding table.
    """
    if target.tie_word_embeddings and not source.tie_word_embeddings:
        raise GrowthError(
            "the source has a trained head of its own (tie_word_embeddings=false), which a target with a tied head "
            "would drop. Set model.tied_head=false."
        )


def check_head(family: Family, target: PreTrainedConfig, copies: float) -> None:
    """Refuse a tied head whose input grows, where no parameter before it can absorb the factor.

    Raises:
        GrowthError: the family has no parameter that writes what the head reads.
    """
    if target.tie_word_embeddings and copies > 1 and not writes_head_input(family, target):
        raise GrowthError(
            f"a {family.model_type} model of this kind cannot keep its head tied while it grows: nothing before the "
            f"head can absorb the factor {copies:g}. Set model.tied_head=false."
        )


def check_copies(growth: GrowthSettings, factors: Mapping[str, float]) -> None:
    """Refuse a bigger target where the growth keeps every size.

    Raises:
        GrowthError: naming the sizes that differ.
    """
    grown = {size: factor for size, factor in factors.items() if factor != 1 and size != "positions"}
    if growth.share == "none" and grown:
        raise GrowthError(
            f"growth={growth.name} keeps every size, but the target is bigger than the source ({grown}). "
            "Choose a preset that grows, such as growth=hyperclone_noisy, or a target of the source's sizes."
        )
