"""How mixtures of experts are stored: one tensor for each expert on disk, one packed tensor in the stock module.

The stock module packs `gate_up_proj` (experts, 2 ffn, embed) and `down_proj` (experts, embed, ffn); a checkpoint holds
a gate and an up projection (ffn, embed) and a down projection (embed, ffn) for each expert.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from torch import nn

from grow.families.family import Family

Shapes = dict[str, tuple[int, ...]]


def unpack_experts(block: str, gate: str, up: str, down: str) -> Callable[[str, tuple[int, ...]], Shapes]:
    """Return a family's `Family.unpacked`: name and shape in the stock module -> those of the stored tensors.

    Args:
        block: Name of the feed-forward block in checkpoints; the stock module calls it `mlp`.
        gate: Name of an expert's gate projection in checkpoints.
        up: Name of an expert's other projection to the hidden units.
        down: Name of an expert's projection back to the residual stream.
    """

    def unpack(name: str, shape: tuple[int, ...]) -> Shapes:
        stored = name.replace(".mlp.", f".{block}.")
        before, packed, _ = stored.partition(".gate_up_proj")
        if packed:
            half = (shape[1] // 2, shape[2])
            return {f"{before}.{expert}.{part}.weight": half for expert in range(shape[0]) for part in (gate, up)}
        before, packed, _ = stored.partition("experts.down_proj")
        if packed:
            return {f"{before}experts.{expert}.{down}.weight": shape[1:] for expert in range(shape[0])}
        return {stored: shape}

    return unpack


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a stored tensor lies in the stock module: a slice of a flattened parameter."""

    parameter: str
    elements: slice


def module_places(family: Family, model: nn.Module) -> dict[str, Place]:
    """Return for every tensor of a stock model's checkpoint, by name, its place in the module."""
    places: dict[str, Place] = {}
    for name, parameter in model.named_parameters():
        start = 0
        for stored, shape in family.unpacked(family.stored_name(name), tuple(parameter.shape)).items():
            places[stored] = Place(parameter=name, elements=slice(start, start + prod(shape)))
            start += prod(shape)
    return places


def by_parameter(family: Family, model: nn.Module, values: Mapping[str, float]) -> dict[str, float]:
    """Return values that are given by the names of stored tensors, by the names of the stock module's parameters.

    The experts that are packed into one parameter share one value: a growth treats them alike.
    """
    places = module_places(family, model)
    return {places[stored].parameter: value for stored, value in values.items() if stored in places}


def stored_tensors(family: Family, model: nn.Module) -> Shapes:
    """Return name and shape of every tensor of a stock model's checkpoint; a tied head is not stored."""
    shapes: Shapes = {}
    for name, parameter in model.named_parameters():
        shapes |= family.unpacked(family.stored_name(name), tuple(parameter.shape))
    return shapes
