"""How alike the copies in a cloned matrix still are: HyperCloning's symmetry metric.

    W = [ W_0 | W_1 | ... ]  by copies of its inputs        symmetry = mean over pairs i < j and rows of cos(W_i, W_j)

1 right after symmetric cloning; it falls as training tells the copies apart, and is near 0 for unrelated halves.

Source: Samragh et al. 2024, arXiv 2409.12903, section 3.2 and figure 5, for two copies. Beyond the paper: more copies,
as the mean over their pairs, and inputs whose copies do not lie in halves.
"""

import itertools

from torch import Tensor
from torch.nn import functional


def symmetry(weight: Tensor, copies: Tensor) -> float:
    """Mean cosine between the copies' blocks, row by row.

    Args:
        weight: (rows, columns).
        copies: (n, columns / n) int64, the columns of each copy in the same order; n is 2 or more.
    """
    blocks = [weight[:, columns].float() for columns in copies]
    pairs = itertools.combinations(blocks, 2)
    cosines = [functional.cosine_similarity(first, second, dim=1).mean() for first, second in pairs]
    return float(sum(cosines) / len(cosines))
