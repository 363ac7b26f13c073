"""Overlap of the experts in a layer: 1 where they were copied from one dense layer, lower as they specialise."""

import re
from collections import defaultdict

import torch
from torch import Tensor
from torch.nn import functional

_EXPERT = re.compile(r"(?P<before>.*experts)\.(?P<number>\d+)\.(?P<after>.*)")


def group_experts(names: list[str]) -> dict[str, list[str]]:
    """Group the parameters of experts by matrix.

    Returns:
        Name of the matrix without the expert's number -> its name in every expert, in the order of their numbers.
    """
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name in names:
        if match := _EXPERT.fullmatch(name):
            found[f"{match['before']}.{match['after']}"].append((int(match["number"]), name))
    return {matrix: [name for _, name in sorted(members)] for matrix, members in found.items() if len(members) > 1}


def expert_overlap(experts: Tensor) -> float:
    """Return the mean cosine similarity over all pairs of experts, each flattened to one vector.

    Args:
        experts: Weights of two or more experts, (experts, ...).
    """
    unit = functional.normalize(experts.flatten(1).float(), dim=1)
    cosines = unit @ unit.T
    count = len(unit)
    return float((cosines.sum() - torch.trace(cosines)) / (count * (count - 1)))
