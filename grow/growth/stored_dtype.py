"""The types in which grown weights are stored: as in the source, or one for all; a proof is as fine as the coarsest."""

from dataclasses import replace

import torch

from grow.growth.made_tensors import ExpertTensor, GrowthPlan, MadeTensor
from grow.growth.verify import TOLERANCES


def stored_as(plan: GrowthPlan, choice: str) -> GrowthPlan:
    """Return the plan with its tensors stored in the type that growth.dtype names.

    A half-precision tensor is exact in float32, and is computed there before it is rounded to any other type.

    Args:
        plan: Plan whose tensors have the types of the source.
        choice: One of source, float32 and bfloat16.
    """
    if choice == "source":
        return plan
    return replace(plan, tensors=[_in_dtype(tensor, getattr(torch, choice)) for tensor in plan.tensors])


def _in_dtype(tensor: MadeTensor, dtype: torch.dtype) -> MadeTensor:
    if isinstance(tensor, ExpertTensor):
        inner = tensor.tensor
        return replace(tensor, tensor=replace(inner, target=replace(inner.target, dtype=dtype)))
    return replace(tensor, target=replace(tensor.target, dtype=dtype))


def coarsest_dtype(plan: GrowthPlan) -> torch.dtype:
    """Return the type that rounds the most of those in which a plan's tensors are stored."""
    return max({tensor.target.dtype for tensor in plan.tensors}, key=lambda dtype: TOLERANCES.get(dtype, 0.0))


def finest_dtype(plan: GrowthPlan) -> torch.dtype:
    """Return the type that holds every tensor of a plan as it is stored; Transformers loads a model in one type."""
    finest, *others = {tensor.target.dtype for tensor in plan.tensors}
    for dtype in others:
        finest = torch.promote_types(finest, dtype)
    return finest
