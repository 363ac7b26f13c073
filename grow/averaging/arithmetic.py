"""The one recipe for an average: float64 sums of snapshots, oldest first, and one rounding at the end.

Every operation is element-wise and done the same way wherever an element lies, so that an average of pieces (chunks of
a tensor, shards of a rank, blocks of a file) is the pieces of the average, bit for bit. A sum of k float32 numbers is
exact in float64 while they lie within a factor of 2^29 / k of each other, which snapshots of one weight almost always
do; it then does not depend on their order either.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from grow.averaging.weighting import Weighting

CHUNK = 2**17  # elements: 1 MB of float64, so that the total and what is added to it stay in a core's cache


def chunks(numel: int, size: int = CHUNK) -> Iterator[slice]:
    """Slices that together cover `numel` elements."""
    return (slice(start, min(start + size, numel)) for start in range(0, numel, size))


def fold(total: Tensor | None, snapshot: Tensor, keep: float, take: float) -> Tensor:
    """keep * total + take * snapshot in float64, into the total; the first snapshot makes a new one."""
    # The product is rounded before it is added: whether add(alpha=...) fuses the two is the kernel's and the machine's
    # choice, and an average made elsewhere would have other bits.
    term = snapshot if take == 1 else snapshot.to(torch.float64, copy=True).mul_(take)
    if total is None:
        return term.to(torch.float64, copy=take == 1)
    if keep != 1:
        total.mul_(keep)
    return total.add_(term)


def combine(snapshots: Iterable[Tensor], weighting: Weighting) -> Tensor:
    """The average of one chunk of each snapshot, oldest first: float64 of the chunks' shape."""
    total: Tensor | None = None
    for snapshot, take in zip(snapshots, weighting.takes, strict=True):
        total = fold(total, snapshot, weighting.keep, take)
    assert total is not None
    return total.div_(weighting.divisor)


def rounded(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Float64 values to the nearest number of another dtype, rounded once.

    Torch converts float64 to the half types by way of float32, which rounds twice. A float32 that is rounded to odd
    loses nothing that the second rounding would need (Boldo & Melquiond 2008).
    """
    return _to_odd(values).to(dtype) if dtype in (torch.bfloat16, torch.float16) else values.to(dtype)


def _to_odd(values: Tensor) -> Tensor:
    """Float32: truncated, and where that loses anything, made odd in its last bit."""
    single = values.float()
    bits = single.view(torch.int32)
    bits -= (single.double().abs() > values.abs()).int()  # sign and magnitude: one less is one step towards zero
    bits |= (single.double() != values).int()
    return single


def finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether no value is infinite or not a number: a boolean scalar where the tensors are; nothing is copied."""
    extremes = [end.double() for tensor in tensors if tensor.numel() for end in torch.aminmax(tensor.detach())]
    return torch.stack(extremes).isfinite().all() if extremes else torch.tensor(True)
