"""The rank of a matrix, as the number of directions it uses: its singular values, and two numbers computed from them.

    effective rank = exp( - sum p log p ),   p = s / sum s        (Roy & Vetterli 2007)

A matrix cloned 2-fold begins with half of its singular values zero; figure 6 of HyperCloning (arXiv 2409.12903,
section 3.3, which calls them eigenvalues) asks how many of them training fills.
"""

import torch
from torch import Tensor


def singular_values(weight: Tensor) -> Tensor:
    """Return the singular values of a matrix, float32, largest first."""
    return torch.linalg.svdvals(weight.float())


def effective_rank(values: Tensor) -> float:
    """Return the effective rank: from 1 (one direction) to the number of values (all equal); 0 if all are zero."""
    total = values.double().sum()
    if total == 0:
        return 0.0
    shares = values.double() / total
    return float(torch.exp(torch.special.entr(shares).sum()))


def numerical_rank(values: Tensor, columns: int) -> int:
    """Count the singular values above the rounding error of float32, by the rule of `numpy.linalg.matrix_rank`.

    Args:
        values: Singular values, largest first.
        columns: Larger dimension of the matrix.
    """
    threshold = values.max() * max(len(values), columns) * torch.finfo(torch.float32).eps
    return int((values > threshold).sum())
