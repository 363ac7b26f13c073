"""What the copies of an input carry of its weight: equal shares, one share each, and noise that cancels.

    symmetric        [ W/2   W/2  ]      diagonal    [ W   0 ]      noise   [ +e1  -e1 ]
                     [ W/2   W/2  ]                  [ 0   W ]              [ +e2  -e2 ]

    W' = E_out W R_in + N,     N E_in = 0

Any N with zero sums over the copies of each input keeps the function; `diagonal` is N = (delta_ij - 1/n) W.

Source: HyperCloning, arXiv 2409.12903, section 3.4; diagonal after Shen et al. 2022, arXiv 2203.06211.
Beyond the paper: noise for any n, odd ones too (the authors' code draws +e, -e in pairs and leaves the last block of
an odd n bare): n Gaussians less their mean. Every row of noise is scaled to the exact power asked for, so a tensor can
be made block of rows by block of rows.
"""

import hashlib

import torch
from torch import Tensor

from grow.growth.maps import AxisMap


def shares(weight: Tensor, rows: AxisMap, columns: AxisMap, share: str, block: slice) -> Tensor:
    """A block of rows of E_out W R_in, with the chosen split between the copies of an input.

    Args:
        weight: (out, in) source weight.
        rows: how its output axis grows.
        columns: how its input axis grows.
        share: `symmetric` or `diagonal`.
        block: which target rows.

    Returns:
        (rows in the block, target inputs), in the weight's dtype.
    """
    grown = gather(weight, rows.index[block], columns.index)
    read = columns.read.to(weight)
    if splits_diagonally(rows, columns, share):
        grown *= rows.copy_number[block, None] == columns.copy_number
        read = read * columns.copies
    return scale_(grown, rows.expand[block].to(weight), read)


def gather(weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """weight[rows][:, columns], as a new tensor."""
    return weight.index_select(0, rows).index_select(1, columns)


def scale_(grown: Tensor, row_gain: Tensor, column_gain: Tensor) -> Tensor:
    """Multiply by an outer product in place, in one pass over the block where the columns share their gain."""
    if bool((column_gain == column_gain[0]).all()):
        return grown.mul_((row_gain * column_gain[0])[:, None])
    return grown.mul_(row_gain[:, None]).mul_(column_gain)


def splits_diagonally(rows: AxisMap, columns: AxisMap, share: str) -> bool:
    """The diagonal split exists only where both sides repeat alike; elsewhere the shares are equal."""
    return share == "diagonal" and rows.copies == columns.copies > 1


def noise_scale(weight: Tensor, rows: AxisMap, columns: AxisMap, snr_db: float) -> Tensor:
    """Root mean square of the noise of each target row.

    The signal is the divided block W/n that the row belongs to: one for each copy of the outputs and each part of a
    fused projection. Its power is the uncentred mean square.

    Returns:
        (target rows,) in the weight's dtype.
    """
    row_power = weight.square().mean(dim=1)[rows.index] * rows.expand.to(weight).square() / columns.copies**2
    block_of_row = rows.part * rows.copies + rows.copy_number
    blocks = int(block_of_row.max()) + 1
    total = row_power.new_zeros(blocks).index_add_(0, block_of_row, row_power)
    count = row_power.new_zeros(blocks).index_add_(0, block_of_row, torch.ones_like(row_power))
    signal = (total / count.clamp(min=1))[block_of_row]
    return (signal / 10 ** (snr_db / 10)).sqrt()


def cancelling_noise(scale: Tensor, columns: AxisMap, generator: torch.Generator) -> Tensor:
    """Gaussian rows that sum to zero over the copies of each input, with an exact root mean square each.

    Args:
        scale: (rows,) root mean square of each row.
        columns: the input axis; must repeat its elements.
        generator: source of the noise.

    Returns:
        (rows, target inputs) in the dtype of `scale`.
    """
    shape = (len(scale), columns.copies, columns.source_length)
    noise = torch.randn(shape, generator=generator, dtype=scale.dtype)
    noise -= noise.mean(dim=1, keepdim=True)
    flat = noise.flatten(1)
    flat *= (scale * flat.shape[1] ** 0.5 / torch.linalg.vector_norm(flat, dim=1))[:, None]
    return flat.index_select(1, columns.copy_number * columns.source_length + columns.index)


def noise_generator(seed: int, tensor: str, first_row: int) -> torch.Generator:
    """Noise depends on the seed, the tensor's name and the row alone: not on the order or place it is made in."""
    key = hashlib.sha256(f"{seed}/{tensor}/{first_row}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "little", signed=False) >> 1)
