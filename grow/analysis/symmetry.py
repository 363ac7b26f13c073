"""HyperCloning's symmetry metric: the similarity of the copies in a cloned matrix.

    W = [ W_0 | W_1 | ... ]  by copies of its inputs        symmetry = mean over pairs i < j and rows of cos(W_i, W_j)

It is 1 right after symmetric cloning, falls as training makes the copies different, and is near 0 for unrelated blocks.

Source: Samragh et al. 2024, arXiv 2409.12903, section 3.2 and figure 5, for two copies. Extended beyond the paper to
more copies, as the mean over their pairs, and to copies that are not contiguous blocks of columns.
"""

import itertools

from torch import Tensor
from torch.nn import functional


def symmetry(weight: Tensor, copies: Tensor) -> float:
    """Return the mean cosine similarity between the copies' blocks, row by row.

    Args:
        weight: Cloned matrix, (rows, columns).
        copies: Column numbers of each copy, in the same order, int64 (n, columns / n) with n >= 2.
    """
    blocks = [weight[:, columns].float() for columns in copies]
    pairs = itertools.combinations(blocks, 2)
    cosines = [functional.cosine_similarity(first, second, dim=1).mean() for first, second in pairs]
    return float(sum(cosines) / len(cosines))
