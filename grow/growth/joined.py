"""Plans one model out of several sources: side by side in width, or stacked in depth.

    beside    W_1  0      E = [E_1 E_2]      logits = [w_1 H_1  w_2 H_2] [x_1; x_2] = w_1 logits_1 + w_2 logits_2
              0   W_2                        heads, hidden units and norms side by side; vocabulary and positions shared
    above     layers of source 2, grown to the target's width
              layers of source 1, likewise                       tables of the first, final norm and head of the last

`beside` computes exactly the weighted mean of the logits if every norm sees one source at a time. No stock class holds
such norms (they are in `grow.growth.group_norm`). Under the stock norm over all sources it is an approximation, exact
only for copies of one model; `growth.balance` scales the sources' streams to equal size first, so that one norm fits
each of them on average. Sources with fewer layers get identity layers. The mean of logits is a product of experts, not
the mean of probabilities. `above` changes the function.

Source: derived; relatives are Deep Fusion, arXiv 2306.11903 (T5), and the last step of staged training, arXiv
2203.06211.
Deviation: both of those train the blocks between the sources from small values; here they start as zeros.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedConfig

from grow.common.errors import GrowthError
from grow.families.build import model_on_meta
from grow.families.experts import stored_tensors
from grow.families.family import Family
from grow.families.registry import family_of
from grow.families.table import Axis, in_layer, layer_of
from grow.families.tensor_file import TensorInfo
from grow.families.weights import WeightReader
from grow.growth import maps
from grow.growth.axes import axis_maps, before_root, head_input
from grow.growth.compatible import check_growable, check_head, check_layers
from grow.growth.depth import layer_map
from grow.growth.made_tensors import GrowthPlan, JoinedTensor, TensorPart, TensorPlan
from grow.growth.maps import AxisMap
from grow.growth.one_source import NEVER_GROWN, SourcePlanner, line_of
from grow.growth.placement import lengths_of_parts, placed
from grow.growth.settings import GrowthSettings
from grow.growth.target import ADDED_SIZES

_HEAD_INPUT: Axis = (("head_in",),)
_INSIDE_A_HEAD = ("query", "key", "value")


def plan_joined(
    readers: Sequence[WeightReader],
    configs: Sequence[PreTrainedConfig],
    target: PreTrainedConfig,
    growth: GrowthSettings,
    stream_sizes: Sequence[float] | None = None,
) -> GrowthPlan:
    """Plan one model out of several sources.

    Args:
        readers: Readers of the sources, one for each.
        configs: Configurations of the sources, in the same order.
        target: The architecture that holds them all.
        growth: The sources, how they are joined, and the weight of each.
        stream_sizes: Root mean square of each source's residual stream, to balance them; None scales no stream.

    Raises:
        GrowthError: the sources are of different kinds, or their sizes do not add up to the target's.
        CheckpointError: a source lacks a tensor, or has one of an unexpected shape.
    """
    family = family_of(configs[0].model_type)
    for config in configs:
        check_growable(family, config, target)
    join = _Join(family=family, readers=readers, configs=configs, target=target, growth=growth)
    tensors, reasons = _plan_beside(join, stream_sizes) if growth.join == "beside" else _plan_above(join)
    first, after = family.sizes(configs[0]), family.sizes(target)
    factors = {size: after[size] / first[size] for size in after}
    return GrowthPlan(tensors=tensors, factors=factors, layers=[], reasons=reasons)


_Planned = tuple[Sequence[TensorPlan | JoinedTensor], tuple[str, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Join:
    """The sources that are joined, and the model they are joined into."""

    family: Family
    readers: Sequence[WeightReader]
    configs: Sequence[PreTrainedConfig]
    target: PreTrainedConfig
    growth: GrowthSettings

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the target's tensors by name, as they are stored."""
        return stored_tensors(self.family, model_on_meta(self.target))


def _plan_beside(join: _Join, stream_sizes: Sequence[float] | None) -> _Planned:
    """Plan the tensors of sources side by side; return also the reasons why their function changes."""
    family, target, growth = join.family, join.target, join.growth
    _check_beside(family, join.configs, target)
    check_head(family, target, len(join.configs))
    whole = replace(growth, width="tile", share="symmetric", snr_db=None, next_layer=False, new_layers="identity")
    planners = []
    for number, (reader, config) in enumerate(zip(join.readers, join.configs, strict=True)):
        scale = 1.0 if stream_sizes is None else stream_sizes[0] / stream_sizes[number]
        axes = _own_axes(family, config, target, whole, growth.shares_of_sources[number], scale)
        layers = layer_map("interpose", family.sizes(config)["layers"], family.sizes(target)["layers"])
        check_layers(family, config, target, layers)
        planners.append(
            SourcePlanner(
                family=family,
                reader=reader,
                axes=axes,
                seen={**axes, "embed": axes["normed"]},
                growth=whole,
                layers=layers,
                tied=bool(config.tie_word_embeddings),
                reader_number=number,
            )
        )
    same = len({reader.directory.resolve() for reader in join.readers}) == 1
    kind = "a LayerNorm" if family.centred else "an RMSNorm"
    reasons = () if same else (f"{kind} over the widths of {len(join.configs)} sources sees them all together",)
    weights = growth.shares_of_sources
    return [_from_all(family, planners, name, shape, weights) for name, shape in join.shapes.items()], reasons


def _own_axes(
    family: Family,
    config: PreTrainedConfig,
    target: PreTrainedConfig,
    growth: GrowthSettings,
    weight: float,
    scale: float,
) -> dict[str, AxisMap]:
    """Return the axes of one source, unchanged in length, with its stream scaled and its logits weighted."""
    axes, tied = axis_maps(family, config, config, growth), bool(target.tie_word_embeddings)
    stream = axes["embed"]
    scaled = replace(stream, expand=stream.expand * scale, read=stream.read / scale)
    own_table = axes["word"] is not axes["embed"]
    word = axes["word"] if own_table else scaled
    unscaled = before_root(scaled, family.sizes(config)["embed"], family.sizes(target)["embed"])
    if tied:
        head = head_input(unscaled if family.scales_embedding else word, tied=True)
        weighted = replace(head, expand=head.expand * weight)
    else:
        plain = head_input(axes["word"], tied=False)
        weighted = replace(plain, read=plain.read * weight)
    return {**axes, "embed": scaled, "normed": stream, "word": word, "unscaled": unscaled, "head_in": weighted}


def _from_all(
    family: Family, planners: Sequence[SourcePlanner], name: str, shape: tuple[int, ...], weights: Sequence[float]
) -> JoinedTensor:
    """Plan a target tensor of sources side by side: each source's part starts where the one before it ends.

    Where an axis is a concatenation, its first parts of all sources come first, then their second parts.
    """
    line = line_of(family, name)
    if line.writes[0][0][0] in _INSIDE_A_HEAD:
        return _shared(planners, name, shape)
    dims = [*line.writes, *([line.reads] if line.reads else [])]
    upright = shape[::-1] if line.transposed else shape
    tensors = []
    for planner in planners:
        lengths = tuple(
            size if axis in NEVER_GROWN else len(maps.axis_of(axis, planner.axes).index)
            for axis, size in zip(dims, upright, strict=True)
        )
        tensor = planner.plan(name, lengths[::-1] if line.transposed else lengths)
        if not any(axis == _HEAD_INPUT for axis in dims):
            tensor = replace(tensor, gradient_share=weights[planner.reader_number])
        tensors.append(tensor)
    parts = placed(tensors, dims, [lengths_of_parts(dims[0], planner.axes) for planner in planners])
    if line.transposed:
        parts = [replace(part, row=part.column, column=part.row) for part in parts]
    info = TensorInfo(name=name, shape=shape, dtype=_widest(part.tensor.target.dtype for part in parts))
    return JoinedTensor(target=info, parts=tuple(parts))


def _shared(planners: Sequence[SourcePlanner], name: str, shape: tuple[int, ...]) -> JoinedTensor:
    """Plan a tensor that all heads share, such as the gain of a norm over each: all sources must have the same.

    Raises:
        GrowthError: the sources are different models.
    """
    if len({planner.reader.directory.resolve() for planner in planners}) > 1:
        raise GrowthError(
            f"{name} is shared by all heads of a layer, and each source has its own. Models of this family cannot be "
            "joined side by side; growth=join_above stacks them."
        )
    tensor = planners[0].plan(name, shape)
    return JoinedTensor(target=tensor.target, parts=(TensorPart(tensor=tensor, row=0, column=0),))


def _widest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """Return the dtype that all of these can be promoted to."""
    joined, *others = dtypes
    for dtype in others:
        joined = torch.promote_types(joined, dtype)
    return joined


def _check_beside(family: Family, configs: Sequence[PreTrainedConfig], target: PreTrainedConfig) -> None:
    """Refuse sources whose sizes do not add up to the target's, or whose heads are of different shapes."""
    sizes, after = [family.sizes(config) for config in configs], family.sizes(target)
    for size in ADDED_SIZES:
        if sum(each[size] for each in sizes) != after[size]:
            raise GrowthError(
                f"{size}: {' + '.join(str(each[size]) for each in sizes)} in the sources, {after[size]} in the target. "
                "Sources side by side add up; choose a target with the sum, or leave out `model` to derive it."
            )
    for name, values in {
        "head_dim": {each["head_dim"] for each in (*sizes, after)},
        "query heads for each key-value head": {each["heads"] // each["kv_heads"] for each in (*sizes, after)},
    }.items():
        if len(values) > 1:
            raise GrowthError(
                f"{name}: {sorted(values)}. Sources side by side need the same; grow one of them first "
                "(scripts/grow_checkpoint.py with scale.head_dim or scale.kv_heads)."
            )
    if after["layers"] < max(each["layers"] for each in sizes):
        raise GrowthError(
            f"layers: {[each['layers'] for each in sizes]} in the sources, {after['layers']} in the target. "
            "Choose a target with at least as many as the deepest source."
        )


def _plan_above(join: _Join) -> _Planned:
    """Plan the tensors of stacked sources; return also the reason why their function changes."""
    family, target, growth = join.family, join.target, join.growth
    counts = [family.sizes(config)["layers"] for config in join.configs]
    layers = family.sizes(target)["layers"]
    if sum(counts) != layers:
        raise GrowthError(
            f"layers: {' + '.join(map(str, counts))} in the sources, {layers} in the target. Stacked sources "
            f"add up; choose a target with layers={sum(counts)}, or leave out `model` to derive it."
        )
    planners = [
        SourcePlanner(
            family=family,
            reader=reader,
            axes=axis_maps(family, config, target, growth),
            growth=growth,
            layers=list(range(count)),
            tied=bool(config.tie_word_embeddings),
            reader_number=number,
        )
        for number, (reader, config, count) in enumerate(zip(join.readers, join.configs, counts, strict=True))
    ]
    places = [(number, layer) for number, count in enumerate(counts) for layer in range(count)]
    tensors: list[TensorPlan | JoinedTensor] = [
        _from_one(family, planners, places, name, shape) for name, shape in join.shapes.items()
    ]
    return tensors, (f"the layers of {len(join.configs)} sources follow each other (growth.join=above)",)


def _from_one(
    family: Family, planners: Sequence[SourcePlanner], places: list[tuple[int, int]], name: str, shape: tuple[int, ...]
) -> TensorPlan:
    """Plan a target tensor of stacked sources from one of them: the one whose layer it is, the first or the last.

    Tables and projections before the first layer are the first source's; the final norm and the head are the last's.
    """
    line = line_of(family, name)
    layer = layer_of(line, name)
    if layer is None:
        enters = (line.reads is None and len(line.writes) == 2) or line.reads == (("word",),)
        return planners[0 if enters else -1].plan(name, shape)
    number, own = places[layer]
    planned = planners[number].plan(in_layer(line, name, own), shape)
    return replace(planned, target=replace(planned.target, name=name))
