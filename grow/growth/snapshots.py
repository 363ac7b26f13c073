"""Other weights of a source through the growth of its own: the snapshots of an averaging window, and so their mean.

    W -> L(W) + N(W)        the source's weights: L is E_out W R_in, or whatever rule there is beside noise
    W_j -> L(W_j) + N(W)    its snapshots: with the noise that the source's weights got

Invariant: L is linear and N(W) is the same for all of them, so the mean of the grown snapshots is the grown mean,

    mean_j (L(W_j) + N(W)) = L(mean_j W_j) + N(W)

and N(W) E_in = 0 whatever W is, so that each grown snapshot computes what it did. Noise scaled to each snapshot's own
weights, as a growth of its own would have it, would not commute with the mean. N(W) is the grown weights less L(W): in
floating point a snapshot that equals W grows to within a rounding of the grown weights; without noise, to their bits.

Derived; no source.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from grow.common.errors import ConfigError
from grow.growth.made_tensors import GrowthPlan, TensorPlan
from grow.growth.tensor_writer import grow_tensor

Read = Callable[[str], Tensor]
"""A tensor of one model, by its checkpoint name."""


def grow_snapshots(
    plan: GrowthPlan, snapshots: Sequence[Read], source: Read, grown: Read, seed: int
) -> Iterator[tuple[str, list[Tensor]]]:
    """The grown snapshots, tensor by tensor; memory is one tensor of each.

    Args:
        plan: of the growth of the weights.
        snapshots: earlier weights of the source, or their mean.
        source: the weights that were grown.
        grown: what they became.
        seed: of the growth.

    Yields:
        name of a grown tensor, and what it is in each grown snapshot.

    Raises:
        ConfigError: the plan joins sources or makes experts.
    """
    for tensor in plan.tensors:
        if not isinstance(tensor, TensorPlan):
            raise ConfigError(
                f"averaging.on_growth=map: {tensor.target.name} is joined from several sources or made for an expert, "
                "and no map takes the snapshots of one source there. Use averaging.on_growth=reset."
            )
        noise = None
        if tensor.snr_db is not None:
            noise = grown(tensor.target.name) - _linear(tensor, source, seed)
        mapped = (_linear(tensor, snapshot, seed) for snapshot in snapshots)
        yield tensor.target.name, [each if noise is None else each.add_(noise) for each in mapped]


def _linear(tensor: TensorPlan, read: Read, seed: int) -> Tensor:
    return torch.cat(list(grow_tensor(replace(tensor, snr_db=None), read, seed)))
