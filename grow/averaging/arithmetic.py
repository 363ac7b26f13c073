"""The arithmetic of every average: float64 sums of snapshots, oldest first, and one rounding at the end.

Every operation is element-wise and the same for every element, so averaging pieces (chunks of a tensor, shards of a
rank, blocks of a file) gives the pieces of the average, bit for bit. A sum of k float32 numbers is exact in float64
while they lie within a factor of 2^29 / k of each other, as snapshots of one weight almost always do; an exact sum does
not depend on their order.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from grow.averaging.weighting import Weighting

CHUNK = 2**17  # elements: 1 MB of float64, so that the total and the summand stay in a core's cache


def chunks(numel: int, size: int = CHUNK) -> Iterator[slice]:
    """Return slices that together cover `numel` elements."""
    return (slice(start, min(start + size, numel)) for start in range(0, numel, size))


def fold(total: Tensor | None, snapshot: Tensor, keep: float, take: float) -> Tensor:
    """Return keep * total + take * snapshot in float64, in place; without a total, return take * snapshot."""
    # The product is rounded before it is added: whether add(alpha=...) fuses the two is the kernel's and the machine's
    # choice, so an average computed elsewhere would have other bits.
    term = snapshot if take == 1 else snapshot.to(torch.float64, copy=True).mul_(take)
    if total is None:
        return term.to(torch.float64, copy=take == 1)
    if keep != 1:
        total.mul_(keep)
    return total.add_(term)


def combine(snapshots: Iterable[Tensor], weighting: Weighting) -> Tensor:
    """Average one chunk of each snapshot, oldest first: float64 of the chunks' shape."""
    total: Tensor | None = None
    for snapshot, take in zip(snapshots, weighting.takes, strict=True):
        total = fold(total, snapshot, weighting.keep, take)
    assert total is not None
    return total.div_(weighting.divisor)


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float64 values to the nearest numbers of another dtype, once.

    Torch converts float64 to 16-bit types through float32, which rounds twice. Rounding to odd in float32 keeps all
    that the second rounding needs (Boldo & Melquiond 2008).
    """
    return _to_odd(values).to(dtype) if dtype in (torch.bfloat16, torch.float16) else values.to(dtype)


def _to_odd(values: Tensor) -> Tensor:
    """Round to odd: truncate to float32, and set the last bit where the truncation was inexact."""
    single = values.float()
    bits = single.view(torch.int32)
    bits -= (single.double().abs() > values.abs()).int()  # sign and magnitude: one less is one step towards zero
    bits |= (single.double() != values).int()
    return single


def finite(tensors: Iterable[Tensor]) -> Tensor:
    """Return whether all values are finite: a boolean tensor, (), on the tensors' device, computed without a copy."""
    extremes = [end.double() for tensor in tensors if tensor.numel() for end in torch.aminmax(tensor.detach())]
    return torch.stack(extremes).isfinite().all() if extremes else torch.tensor(True)
