"""Grows snapshots of a source, such as an averaging window, with the same map and noise as the source's own weights.

    W -> L(W) + N(W)        the source's weights: L is E_out W R_in, or another linear rule; N is the noise
    W_j -> L(W_j) + N(W)    its snapshots: with the noise that the source's weights got

Invariant: L is linear and N(W) is the same for all of them, so the mean of the grown snapshots is the grown mean,

    mean_j (L(W_j) + N(W)) = L(mean_j W_j) + N(W)

and N(W) E_in = 0 for every W, so that each grown snapshot computes the same function as before. Noise scaled to each
snapshot's own weights would not commute with the mean. N(W) is computed as the grown weights minus L(W): a snapshot
that equals W grows to the grown weights up to rounding; without noise, to the same bits.

Derived; no source.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from grow.common.errors import ConfigError
from grow.growth.made_tensors import GrowthPlan, ReadTensor, TensorPlan
from grow.growth.tensor_writer import grow_tensor


def grow_snapshots(
    plan: GrowthPlan, snapshots: Sequence[ReadTensor], source: ReadTensor, grown: ReadTensor, seed: int
) -> Iterator[tuple[str, list[Tensor]]]:
    """Grow snapshots one tensor at a time, so that memory holds one tensor of each.

    Args:
        plan: Plan by which the source's weights were grown.
        snapshots: Earlier weights of the source, or their mean.
        source: The source's weights.
        grown: The grown weights.
        seed: Seed of the growth.

    Yields:
        Name of a grown tensor, and that tensor of each grown snapshot.

    Raises:
        ConfigError: the plan joins several sources or makes experts.
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


def _linear(tensor: TensorPlan, read: ReadTensor, seed: int) -> Tensor:
    """Return L(W): the grown tensor without noise."""
    return torch.cat(list(grow_tensor(replace(tensor, snr_db=None), read, seed)))
