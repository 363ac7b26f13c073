"""Plans a mixture of experts out of dense models: every expert starts as the dense feed-forward block, or as a shard.

    FFN  ->  router(x) picks k of  FFN  FFN  FFN  FFN            y = sum of p_i FFN(x), sum of p_i = 1   =>   y = FFN(x)
    FFN = [A | B]  ->  A  B  A  B      router rows r1 r1 r2 r2: a virtual group is picked whole, with p / G each,
                                       so that its down projections carry G:  sum of p/G * G * (A(x) + B(x)) = FFN(x)

Exact where the k chosen probabilities add up to one (top-k before softmax, or renormalised) and k is a multiple of the
number of shards G. Not exact, and the plan says so: re-initialising some of each expert's hidden units from a normal
with the mean and standard deviation of the weights they replace (drop-upcycling); noise on experts; experts from
different sources, whose other weights are averaged. The router is initialised with standard deviation 0.02, without
bias; a zero router would send every token to the same experts.

Sources: sparse upcycling, arXiv 2212.05055; virtual groups, arXiv 2410.07524 (whose cube roots on all three matrices of
a gated block are not exact, since silu is not homogeneous: the scale is on the last one here); drop-upcycling, arXiv
2502.19261; branch-train-mix, arXiv 2403.07816; 1 % noise, arXiv 2510.08008.
Deviations: hidden units are chosen once for all three matrices (the released script chooses them for each); they are
not permuted, which changes nothing. Every block becomes experts, not every other one.
"""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedConfig

from grow.common.errors import GrowthError
from grow.families.build import model_on_meta
from grow.families.experts import stored_tensors
from grow.families.family import Family
from grow.families.registry import family_of
from grow.families.table import Axis, Parameter, expert_of, layer_of
from grow.families.tensor_file import TensorInfo
from grow.families.weights import WeightReader
from grow.growth import maps
from grow.growth.axes import axis_maps
from grow.growth.claim import changed_experts, reasons_against
from grow.growth.compatible import check_head, check_layers
from grow.growth.depth import planned_layers
from grow.growth.made_tensors import GrowthPlan, JoinedTensor, MadeTensor, RouterTensor, TensorPart, TensorPlan
from grow.growth.one_source import HIDDEN, SourcePlanner, as_expert, line_of
from grow.growth.settings import GrowthSettings

_EXPERTS: Axis = (("experts",),)


def upcycles(source: PreTrainedConfig, target: PreTrainedConfig) -> bool:
    """Return whether the target is a mixture of experts, and the source a dense model that can become its experts."""
    return family_of(target.model_type).dense == source.model_type


def plan_upcycled(
    readers: Sequence[WeightReader],
    configs: Sequence[PreTrainedConfig],
    target: PreTrainedConfig,
    growth: GrowthSettings,
) -> GrowthPlan:
    """Plan a mixture of experts out of one dense model, or of several with a common ancestor.

    Args:
        readers: Readers of the sources, one for each; groups of experts take them in turn.
        configs: Configurations of the sources, all of one shape.
        target: A mixture of experts of the sources' kind.
        growth: How to grow; it may also widen and deepen.

    Raises:
        GrowthError: the sizes do not fit, or the target computes another function whatever its weights.
    """
    mixture, dense, source = family_of(target.model_type), family_of(configs[0].model_type), configs[0]
    _check_alike(dense, configs, target)
    before, after = dense.sizes(source), mixture.sizes(target)
    shards = _shards(before["ffn"], after)
    whole = {**{size: after[size] for size in before}, "ffn": after["ffn"] * shards}
    grown = dense.resize(source, whole)
    grown.tie_word_embeddings = target.tie_word_embeddings
    axes = axis_maps(dense, source, grown, growth)
    check_head(dense, grown, axes["head_in"].copies)
    layers = planned_layers(growth, before["layers"], after["layers"])
    check_layers(dense, source, target, layers)
    planners = [
        SourcePlanner(
            family=dense,
            reader=reader,
            axes=axes,
            growth=growth,
            layers=layers,
            tied=bool(config.tie_word_embeddings),
            reader_number=number,
        )
        for number, (reader, config) in enumerate(zip(readers, configs, strict=True))
    ]
    shapes = stored_tensors(mixture, model_on_meta(target))
    return GrowthPlan(
        tensors=[_made(mixture, planners, name, shape, shards, after["experts"]) for name, shape in shapes.items()],
        factors={size: after[size] / before.get(size, 1) for size in after if size != "active_experts"},
        layers=layers,
        reasons=(
            *reasons_against(dense, source, grown, axes, growth, layers),
            *_reasons(readers, target, growth, after["active_experts"], shards),
        ),
    )


def _made(
    mixture: Family, planners: Sequence[SourcePlanner], name: str, shape: tuple[int, ...], shards: int, experts: int
) -> MadeTensor:
    """Plan one target tensor: a router is initialised, an expert is made from one source, the rest is their mean."""
    line = line_of(mixture, name)
    if line.writes[0] == _EXPERTS:
        dtype = planners[0].plan(_name_in_router_layer(planners[0].family, name, line), shape[1:]).target.dtype
        info = TensorInfo(name=name, shape=shape, dtype=dtype)
        return RouterTensor(target=info, std=planners[0].growth.router_std, repeats=shards)
    expert = expert_of(line, name)
    if expert is None:
        return _averaged([planner.plan(name, shape) for planner in planners])
    planner = planners[expert // shards % len(planners)]
    tensor = planner.plan(_dense_name(mixture, name, expert), shape)
    sliced = _shard(tensor, line, shape, expert % shards, shards)
    sliced = replace(
        sliced,
        target=replace(sliced.target, name=name, shape=shape),
        gradient_share=(1 if line.reads == HIDDEN else shards) / experts,  # under a uniform router
        new_expert=expert >= shards * len(planners),
    )
    return as_expert(line, sliced, planner.growth)


def _dense_name(mixture: Family, name: str, expert: int) -> str:
    """Return what the dense model calls an expert's parameter."""
    for pattern, plain in mixture.dense_names.items():
        name = name.replace(pattern.replace("{expert}", str(expert)), plain)
    return name


def _name_in_router_layer(dense: Family, name: str, line: Parameter) -> str:
    """Return the name of a dense parameter in the router's layer, which has the router's dtype."""
    layered = (other for other in dense.table if other.is_layered and other.normalises is not None)
    pattern = next(layered).pattern.pattern.replace("\\", "")
    return pattern.replace("(?P<layer>d+)", str(layer_of(line, name)))


def _shard(tensor: TensorPlan, line: Parameter, shape: tuple[int, ...], shard: int, shards: int) -> TensorPlan:
    """Restrict a tensor's plan to the rows or columns of one shard of the hidden units.

    A projection that reads hidden units carries the factor G, because the router gives each shard only p / G.
    """
    if shards == 1:
        return tensor
    width = shape[0] if line.reads != HIDDEN else shape[1]
    part = slice(shard * width, (shard + 1) * width)
    if line.reads == HIDDEN:
        assert tensor.columns is not None
        columns = maps.cut(tensor.columns, part)
        return replace(tensor, columns=replace(columns, read=columns.read * shards))
    return replace(tensor, rows=maps.cut(tensor.rows, part))


def _averaged(tensors: list[TensorPlan]) -> MadeTensor:
    """Return the plan of the mean of several sources' tensors."""
    if len(tensors) == 1:
        return tensors[0]
    shares = [replace(each, rows=replace(each.rows, expand=each.rows.expand / len(tensors))) for each in tensors]
    parts = tuple(TensorPart(tensor=each, row=0, column=0) for each in shares)
    return JoinedTensor(target=tensors[0].target, parts=parts)


def _shards(ffn: int, after: dict[str, int]) -> int:
    """Return how many experts one dense block is cut into; 1 where an expert is as wide as the block or wider."""
    if after["ffn"] >= ffn:
        return 1
    shards = ffn // after["ffn"]
    if ffn % after["ffn"] or after["experts"] % shards:
        raise GrowthError(
            f"ffn: {ffn} in the source, {after['ffn']} in each of {after['experts']} experts. An expert is the whole "
            "block, a wider one, or a 1/G shard of it, where the number of experts is a multiple of G."
        )
    return shards


def _reasons(
    readers: Sequence[WeightReader], target: PreTrainedConfig, growth: GrowthSettings, active: int, shards: int
) -> tuple[str, ...]:
    """Return why the experts compute another function than the dense block; empty where they compute the same."""
    found = []
    if not getattr(target, "norm_topk_prob", True):
        found.append("the router's weights of the chosen experts do not add up to one (norm_topk_prob)")
    if active % shards:
        found.append(f"{active} active experts are not a whole number of groups of {shards} shards")
    found += changed_experts(growth)
    if len({reader.directory.resolve() for reader in readers}) > 1:
        found.append(f"experts come from {len(readers)} sources, and what they share is averaged")
    return tuple(found)


def _check_alike(dense: Family, configs: Sequence[PreTrainedConfig], target: PreTrainedConfig) -> None:
    """Refuse sources of different shapes, and a target that computes another function whatever its weights."""
    for config in configs:
        shared = type(config)().to_dict().keys() & type(target)().to_dict().keys()
        differences = {k: pair for k, pair in dense.differences(config, target).items() if k in shared - {"model_type"}}
        biases = [name for name in ("attention_bias", "mlp_bias") if getattr(config, name, False)]
        if differences or biases or dense.sizes(config) != dense.sizes(configs[0]):
            listed = ", ".join(f"{name}: {old!r} -> {new!r}" for name, (old, new) in differences.items())
            raise GrowthError(
                f"source and target compute different functions whatever their weights ({listed or biases or 'sizes'})."
                " Experts come from dense models of one shape without biases that agree with the target in all else."
            )
    if dense.sizes(configs[0])["vocab"] != target.vocab_size:
        raise GrowthError(
            f"vocab: {dense.sizes(configs[0])['vocab']} in the source, {target.vocab_size} in the target."
        )
