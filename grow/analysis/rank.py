"""How many directions a matrix uses: its singular values, and two numbers drawn from them.

    effective rank = exp( - sum p log p ),   p = s / sum s        (Roy & Vetterli 2007)

A matrix cloned 2-fold begins with half of its singular values zero; figure 6 of HyperCloning (arXiv 2409.12903,
section 3.3, which calls them eigenvalues) asks how many of them training fills.
"""

import torch
from torch import Tensor


def singular_values(weight: Tensor) -> Tensor:
    """Float32, largest first."""
    return torch.linalg.svdvals(weight.float())


def effective_rank(values: Tensor) -> float:
    """Between 1 (one direction) and the number of values (all alike); 0 for a matrix of zeros."""
    total = values.double().sum()
    if total == 0:
        return 0.0
    shares = values.double() / total
    return float(torch.exp(torch.special.entr(shares).sum()))


def numerical_rank(values: Tensor, columns: int) -> int:
    """Singular values above float32's own error on a matrix of this many columns (NumPy's rule)."""
    threshold = values.max() * max(len(values), columns) * torch.finfo(torch.float32).eps
    return int((values > threshold).sum())
