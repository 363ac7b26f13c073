"""Entry point of planning: turns configurations and checkpoint headers into a plan, whatever the kind of growth.

    a dense model into a mixture of experts      -> upcycled
    one checkpoint                               -> one_source
    several checkpoints, side by side or stacked -> joined

Only `plan_of` calls the planners of these three modules.
"""

from collections.abc import Sequence

from transformers import PreTrainedConfig

from grow.common.errors import GrowthError
from grow.families.registry import family_of
from grow.families.weights import WeightReader
from grow.growth.compatible import check_trained_head
from grow.growth.depth import planned_layers
from grow.growth.joined import plan_joined
from grow.growth.made_tensors import GrowthPlan
from grow.growth.one_source import plan_one_source
from grow.growth.settings import GrowthSettings
from grow.growth.stored_dtype import stored_as
from grow.growth.upcycled import plan_upcycled, upcycles


def plan_of(
    readers: Sequence[WeightReader],
    configs: Sequence[PreTrainedConfig],
    target: PreTrainedConfig,
    growth: GrowthSettings,
    sizes: Sequence[float] | None = None,
) -> GrowthPlan:
    """Plan the growth of one or several checkpoints into a target architecture.

    Args:
        readers: Readers of the sources, one for each.
        configs: Configurations of the sources, in the same order.
        target: The architecture to grow into.
        growth: How to grow.
        sizes: Root mean square of each source's residual stream, if `balances_streams`; None scales no stream.

    Raises:
        GrowthError: sources and target do not fit together.
        CheckpointError: a source lacks a tensor, or has one of an unexpected shape.
    """
    _check_join(configs, target, growth)
    for config in configs:
        check_trained_head(config, target)
    if upcycles(configs[0], target):
        plan = plan_upcycled(readers, configs, target, growth)
    elif len(readers) == 1:
        plan = plan_one_source(readers[0], configs[0], target, growth)
    else:
        plan = plan_joined(readers, configs, target, growth, sizes)
    return stored_as(plan, growth.dtype)


def _check_join(configs: Sequence[PreTrainedConfig], target: PreTrainedConfig, growth: GrowthSettings) -> None:
    """Refuse several sources for a target that cannot hold all of them in the growth's way.

    Raises:
        GrowthError: experts are to be made of them and the target has none or too few, or it has experts and none are.
    """
    if len(configs) == 1:
        return
    if upcycles(configs[0], target) != (growth.join == "experts"):
        raise GrowthError(
            f"growth={growth.name}: cannot make a {target.model_type} model of {len(configs)} {configs[0].model_type} "
            "models. growth=branch_train_mix makes experts of them and needs a mixture as target, such as "
            "model=tiny_mixtral; growth=join and join_above make one model of their own family."
        )
    experts = family_of(target.model_type).sizes(target).get("experts", 0)
    if growth.join == "experts" and len(configs) > experts:
        raise GrowthError(
            f"growth.sources: {len(configs)} models for {experts} experts, so {len(configs) - experts} would not be "
            f"used. Name at most {experts}, or choose a target with more experts."
        )


def with_source_layers(
    configs: Sequence[PreTrainedConfig], target: PreTrainedConfig, growth: GrowthSettings
) -> PreTrainedConfig:
    """Return the target with the kinds of attention and positions of the source layers that its layers start from.

    Sources side by side keep those of the deepest one; the others have to agree with it.

    Args:
        configs: Configurations of the sources.
        target: The architecture to grow into, of a source's family.
        growth: How to grow.

    Raises:
        GrowthError: this growth cannot make that many layers.
    """
    family, dense = family_of(target.model_type), family_of(configs[0].model_type)
    counts, after = [dense.sizes(config)["layers"] for config in configs], family.sizes(target)["layers"]
    if target.model_type != configs[0].model_type and not upcycles(configs[0], target):
        return target
    if len(configs) > 1 and growth.join == "above" and sum(counts) == after:
        origins = [(config, layer) for config, count in zip(configs, counts, strict=True) for layer in range(count)]
    elif len(configs) == 1 or upcycles(configs[0], target):
        origins = [(configs[0], layer) for layer in planned_layers(growth, counts[0], after)]
    elif max(counts) == after:
        origins = [(configs[counts.index(after)], layer) for layer in range(after)]
    else:
        return target  # the planner says what does not add up
    followed = type(target).from_dict(target.to_dict())
    family.with_layers(followed, origins)
    return followed


def balances_streams(configs: Sequence[PreTrainedConfig], target: PreTrainedConfig, growth: GrowthSettings) -> bool:
    """Return whether a plan needs the sizes of the sources' residual streams, measured by running the models."""
    return growth.balance and len(configs) > 1 and not upcycles(configs[0], target)
