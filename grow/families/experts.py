"""How mixtures of experts are stored: one tensor an expert on disk, one packed tensor in the stock module.

The stock module packs `gate_up_proj` (experts, 2 ffn, embed) and `down_proj` (experts, embed, ffn); a checkpoint holds
a gate and an up projection (ffn, embed) and a down projection (embed, ffn) for each expert.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from torch import nn

from grow.families.family import Family

Shapes = dict[str, tuple[int, ...]]


def unpack_experts(block: str, gate: str, up: str, down: str) -> Callable[[str, tuple[int, ...]], Shapes]:
    """How a family spells the parameters of its expert blocks in a checkpoint.

    Args:
        block: name of the feed-forward block, which the stock module calls `mlp`.
        gate: name of an expert's gate projection.
        up: name of its other projection to the hidden units.
        down: name of its projection back.
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
    """Where a stored tensor lies in the stock module: some elements of a parameter, in the order they lie in."""

    parameter: str
    elements: slice


def module_places(family: Family, model: nn.Module) -> dict[str, Place]:
    """Name of every tensor that a checkpoint of a stock model holds -> where the module has it."""
    places: dict[str, Place] = {}
    for name, parameter in model.named_parameters():
        start = 0
        for stored, shape in family.unpacked(family.stored_name(name), tuple(parameter.shape)).items():
            places[stored] = Place(parameter=name, elements=slice(start, start + prod(shape)))
            start += prod(shape)
    return places


def stored_tensors(family: Family, model: nn.Module) -> Shapes:
    """Name and shape of every tensor that a checkpoint of a stock model holds; a tied head is not among them."""
    shapes: Shapes = {}
    for name, parameter in model.named_parameters():
        shapes |= family.unpacked(family.stored_name(name), tuple(parameter.shape))
    return shapes
