"""How alike the experts of a layer are. Experts copied from one dense layer begin at 1 and should part."""

import re
from collections import defaultdict

import torch
from torch import Tensor
from torch.nn import functional

_EXPERT = re.compile(r"(?P<before>.*experts)\.(?P<number>\d+)\.(?P<after>.*)")


def group_experts(names: list[str]) -> dict[str, list[str]]:
    """Matrix, its expert's number taken out -> that matrix of every expert, in the order of their numbers."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name in names:
        if match := _EXPERT.fullmatch(name):
            found[f"{match['before']}.{match['after']}"].append((int(match["number"]), name))
    return {matrix: [name for _, name in sorted(members)] for matrix, members in found.items() if len(members) > 1}


def expert_overlap(experts: Tensor) -> float:
    """Mean cosine over all pairs of experts, each taken as one long vector.

    Args:
        experts: (experts, ...), two or more.
    """
    unit = functional.normalize(experts.flatten(1).float(), dim=1)
    cosines = unit @ unit.T
    count = len(unit)
    return float((cosines.sum() - torch.trace(cosines)) / (count * (count - 1)))
