"""Plans a growth from shapes alone: whether one architecture can be grown into another, before there are weights."""

from pathlib import Path

import torch
from transformers import PreTrainedConfig

from grow.families.build import model_on_meta
from grow.families.experts import stored_tensors
from grow.families.registry import family_of
from grow.families.tensor_file import TensorInfo
from grow.families.weights import WeightReader
from grow.growth.made_tensors import GrowthPlan
from grow.growth.planning import plan_of, with_source_layers
from grow.growth.settings import GrowthSettings


def rehearse(source: PreTrainedConfig, target: PreTrainedConfig, growth: GrowthSettings) -> GrowthPlan:
    """Return the plan of a growth from a model of the source's architecture, which need not exist yet.

    Raises:
        GrowthError: source and target do not fit together.
    """
    return plan_of([_ShapeReader(source)], [source], with_source_layers([source], target, growth), growth)


class _ShapeReader(WeightReader):
    """The header of a checkpoint that does not exist yet."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.directory, self.files = Path("the link before"), []
        self._shapes = stored_tensors(family_of(config.model_type), model_on_meta(config))

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def info(self, name: str) -> TensorInfo:
        return TensorInfo(name=name, shape=self._shapes[name], dtype=torch.float32)
