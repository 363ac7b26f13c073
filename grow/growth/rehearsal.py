"""Whether one architecture can be grown into another, before there are weights: the plan, made from shapes alone."""

from pathlib import Path

import torch
from transformers import PreTrainedConfig

from grow.families.build import model_on_meta
from grow.families.experts import stored_tensors
from grow.families.registry import family_of
from grow.families.weights import TensorInfo, WeightReader
from grow.growth.made_tensors import GrowthPlan
from grow.growth.one_source import plan_growth
from grow.growth.settings import GrowthSettings
from grow.growth.upcycled import plan_upcycled, upcycles


def rehearse(source: PreTrainedConfig, target: PreTrainedConfig, growth: GrowthSettings) -> GrowthPlan:
    """The plan that a growth from a model of the source's architecture will have.

    Raises:
        GrowthError: the two do not fit.
    """
    reader = _Shapes(source)
    if upcycles(source, target):
        return plan_upcycled([reader], [source], target, growth)
    return plan_growth(reader, source, target, growth)


class _Shapes(WeightReader):
    """The header of a checkpoint that does not exist yet."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.directory, self.files = Path("the link before"), []
        self._shapes = stored_tensors(family_of(config.model_type), model_on_meta(config))

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def info(self, name: str) -> TensorInfo:
        return TensorInfo(name=name, shape=self._shapes[name], dtype=torch.float32)
