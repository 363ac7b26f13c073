"""Entry point of planning: turns configurations and checkpoint headers into a plan, whatever the kind of growth.

    a dense model into a mixture of experts      -> upcycled
    one checkpoint                               -> one_source
    several checkpoints, side by side or stacked -> joined

Only `plan_of` calls the planners of these three modules.
"""

from collections.abc import Sequence

from transformers import PreTrainedConfig

from grow.families.weights import WeightReader
from grow.growth.joined import plan_joined
from grow.growth.made_tensors import GrowthPlan
from grow.growth.one_source import plan_one_source
from grow.growth.settings import GrowthSettings
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
    if upcycles(configs[0], target):
        return plan_upcycled(readers, configs, target, growth)
    if len(readers) == 1:
        return plan_one_source(readers[0], configs[0], target, growth)
    return plan_joined(readers, configs, target, growth, sizes)


def balances_streams(configs: Sequence[PreTrainedConfig], target: PreTrainedConfig, growth: GrowthSettings) -> bool:
    """Return whether a plan needs the sizes of the sources' residual streams, measured by running the models."""
    return growth.balance and len(configs) > 1 and not upcycles(configs[0], target)
