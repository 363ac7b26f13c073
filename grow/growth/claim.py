"""Decides from a plan alone whether a growth preserves the function, and gives the reasons where it does not.

    R E = I on every axis, N E_in = 0, and every norm sees the statistics it knows     =>     the same logits

Where there is a reason against it, verification only measures the difference; otherwise it refuses any. tests/growth
checks case by case what preserves the function and what breaks it.
"""

from collections.abc import Iterator, Mapping

from transformers import PreTrainedConfig

from grow.families.family import Family
from grow.families.table import Axis, axis_name
from grow.growth.depth import repeated_layers
from grow.growth.maps import AxisMap, axis_of
from grow.growth.settings import GrowthSettings

_STREAM: Axis = (("embed",),)


def reasons_against(
    family: Family,
    source: PreTrainedConfig,
    target: PreTrainedConfig,
    axes: Mapping[str, AxisMap],
    growth: GrowthSettings,
    layers: list[int],
) -> tuple[str, ...]:
    """Return why the grown model computes another function than its source; empty where it computes the same one."""
    return (
        *_of_depth(family, source, growth, layers),
        *_of_norms(family, source, axes),
        *_of_values(axes, growth),
        *_of_experts(family, source, target, axes, growth),
    )


def _of_depth(family: Family, source: PreTrainedConfig, growth: GrowthSettings, layers: list[int]) -> Iterator[str]:
    repeated = len(repeated_layers(layers))
    if repeated and growth.new_layers == "copied":
        yield f"{repeated} of {len(layers)} layers repeat another one (growth.depth={growth.depth})"
    elif repeated and family.normalises_stream(source):
        yield "layers of this model normalise the residual stream itself, so none of them can start as the identity"


def _of_norms(family: Family, source: PreTrainedConfig, axes: Mapping[str, AxisMap]) -> Iterator[str]:
    lines = (line.normalises for line in family.table if line.normalises is not None)
    for axis in dict.fromkeys((_STREAM, *lines)):
        grown = axis_of(axis, axes)
        kind = "LayerNorm" if family.centred else "RMSNorm"
        if not keeps_norm(grown, centred=family.centred):
            yield (
                f"a {kind} over {axis_name(axis)} sees other statistics: {grown.source_length} to {len(grown.index)} "
                "elements of unequal copies"
            )
    if axes["embed"].averaged and axes["embed"].filler.any() and family.normalises_stream(source):
        yield "layers of this model normalise the residual stream itself, so its filler does not stay the mean"
    elif axes["embed"].averaged and axes["embed"].filler.any() and not family.ends_in_norm(source):
        yield "no norm follows the last layer, so the head reads the filler"


def _of_values(axes: Mapping[str, AxisMap], growth: GrowthSettings) -> Iterator[str]:
    grown = [name for name, axis_map in axes.items() if axis_map.copies > 1]
    if growth.next_layer and grown:
        yield "new outputs come from the layer above (growth.next_layer)"
    uneven = sorted(name for name in ("embed", "heads", "ffn") if not axes[name].uniform)
    if growth.share == "rms" and uneven:
        yield f"growth.share=rms keeps the size of what is read, not its value ({', '.join(uneven)})"


def _of_experts(
    family: Family,
    source: PreTrainedConfig,
    target: PreTrainedConfig,
    axes: Mapping[str, AxisMap],
    growth: GrowthSettings,
) -> Iterator[str]:
    if "experts" not in axes:
        return
    if axes["experts"].copies > 1:
        yield from changed_experts(growth, "new ")
    before, after = (family.sizes(config)["active_experts"] for config in (source, target))
    if after != before * axes["experts"].copies:
        yield (
            f"experts grow {axes['experts'].copies:g} times, active ones from {before} to {after}: "
            "a token's experts are others"
        )


def changed_experts(growth: GrowthSettings, which: str = "") -> Iterator[str]:
    """Yield what makes experts unequal and so changes the function."""
    if growth.redrawn:
        yield f"{growth.redrawn:.0%} of each {which}expert's hidden units are redrawn (growth.redrawn)"
    if growth.expert_noise:
        yield f"noise on {which}experts does not cancel (growth.expert_noise)"


def keeps_norm(axis_map: AxisMap, *, centred: bool) -> bool:
    """Return whether a norm over this axis sees the same statistics.

    It does where E^T E = (S/s) I; a norm that subtracts the mean also needs equal copies of all elements.

    Args:
        axis_map: Map of the axis before the norm.
        centred: Whether the norm subtracts the mean.
    """
    live = ~axis_map.filler
    squares = axis_map.expand[live].square()
    total = squares.new_zeros(axis_map.source_length).index_add_(0, axis_map.index[live], squares)
    ratio = len(axis_map.index) / axis_map.source_length
    same_size = bool((total - ratio).abs().max() < 1e-9 * ratio)
    if not centred:
        return same_size
    alike = bool((axis_map.expand[live] - axis_map.expand[live][0]).abs().max() < 1e-12)
    return same_size and alike and (axis_map.averaged or bool(live.all()))
