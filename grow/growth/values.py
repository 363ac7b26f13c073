"""Values of the copies of a weight: equal shares, one share each, uneven shares, noise that cancels.

    symmetric  [ W/2   W/2  ]    diagonal  [ W   0 ]    uneven  [ .7W   .3W ]    noise  [ +e1  -e1 ]    rms  s [ W   W ]
               [ W/2   W/2  ]              [ 0   W ]            [ .3W   .7W ]           [ +e2  -e2 ]           [ W   W ]

    W' = E_out W R_in + N,     N E_in = 0

Any N with zero sums over the copies of each input keeps the function; `diagonal` is N = (delta_ij - 1/n) W, and
`uneven` favours one copy, drawn for each weight. `rms` is the exception: s = sqrt(d / sum of squared copies) keeps the
RMS of W x where the copies are uneven, not its value; where all have n copies it is the symmetric 1/n.

Sources: HyperCloning, arXiv 2409.12903, section 3.4; diagonal after Shen et al. 2022, arXiv 2203.06211; uneven shares
after LEMON, arXiv 2310.07999; rms after SPARKLING, arXiv 2602.02472, whose sqrt(d / (3d' - 2d)) is this up to d' = 2d.
Deviations: noise for any n, odd ones too (HyperCloning's code draws +e, -e in pairs and leaves the last block of an odd
n bare): n Gaussians less their mean. LEMON's share is one for a whole copy: under Adam, whose steps do not see the size
of a gradient, such copies stay together; ours is drawn weight by weight. Every row of noise is scaled to the exact
power asked for, so a tensor can be made one block of rows at a time.
"""

import hashlib

import torch
from torch import Tensor

from grow.growth.maps import AxisMap


def grown_rows(
    weight: Tensor, rows: AxisMap, columns: AxisMap | None, share: str, block: slice, *, contracts: bool = True
) -> Tensor:
    """Return a block of rows of E_out W R_in, with the chosen split between the copies of an input.

    Args:
        weight: (out, in) or (out,) source weight.
        rows: Map of the output axis.
        columns: Map of the input axis; None for vectors.
        share: `symmetric`, `diagonal` or `rms`; `uneven` is multiplied in afterwards.
        block: Target rows to make.
        contracts: Whether the columns are read. An embedding's are written: they expand too, and are not
            divided among copies.

    Returns:
        (rows in the block, target columns) or (rows in the block,), in the weight's dtype.
    """
    gain = rows.expand[block].to(weight)
    if columns is None:
        return weight[rows.index[block]] * gain
    grown = gather(weight, rows.index[block], columns.index)
    if not contracts:
        return scale_(grown, gain, columns.expand.to(weight))
    read = columns.read.to(weight)
    if splits_diagonally(rows, columns, share):
        grown *= rows.copy_number[block, None] == columns.copy_number
        read = read * columns.copies
    elif share == "rms":
        read = torch.full_like(read, rms_share(columns))
    return scale_(grown, gain, read)


def gather(weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return weight[rows][:, columns], as a new tensor."""
    return weight.index_select(0, rows).index_select(1, columns)


def scale_(grown: Tensor, row_gain: Tensor, column_gain: Tensor) -> Tensor:
    """Multiply by an outer product in place, in one pass over the block where the columns share their gain."""
    if bool((column_gain == column_gain[0]).all()):
        return grown.mul_((row_gain * column_gain[0])[:, None])
    return grown.mul_(row_gain[:, None]).mul_(column_gain)


def splits_diagonally(rows: AxisMap, columns: AxisMap, share: str) -> bool:
    """Return whether the split is diagonal: only where both axes have equally many copies, else shares are equal."""
    alike = rows.copies == columns.copies > 1 and columns.uniform and bool((rows.counts == rows.counts[0]).all())
    return share == "diagonal" and alike


def splits_unevenly(columns: AxisMap, share: str) -> bool:
    """Return whether the split is uneven: it exists where an input has copies that are read in equal shares."""
    equal = (columns.expand * columns.read * columns.counts[columns.index] - 1).abs()[~columns.filler]
    return share == "uneven" and bool((columns.counts > 1).any()) and bool((equal < 1e-12).all())


def rms_share(columns: AxisMap) -> float:
    """Return the share of an input's weight that each copy carries, so that the outputs keep their root mean square.

    The mean square of a sum over d uncorrelated inputs grows from d to the sum of c_i squared, where input i has c_i
    copies; the share is the square root of the ratio.
    """
    return float((columns.source_length / columns.counts.square().sum()) ** 0.5)


def uneven_shares(rows: int, columns: AxisMap, largest: float, generator: torch.Generator) -> Tensor:
    """Sample multipliers of equal shares: in each row, one copy of each input gets `largest`, the others the rest.

    Args:
        rows: Number of rows.
        columns: The input axis.
        largest: Share of the favoured copy, between 0 and 1.
        generator: Source of randomness.

    Returns:
        (rows, target inputs) in float64; in each row, the factors of the c copies of an input add up to c.
    """
    counts = columns.counts
    favoured = torch.rand((rows, columns.source_length), generator=generator).mul_(counts).long().clamp_(max=counts - 1)
    share = counts.to(torch.float64)
    single, rest = counts == 1, (1 - largest) * share / (counts - 1).clamp(min=1)
    low, high = (torch.where(single, 1.0, value).index_select(0, columns.index) for value in (rest, largest * share))
    wins = favoured.index_select(1, columns.index) == columns.copy_number
    return torch.where(wins, high, low).masked_fill_(columns.filler, 1.0)


def noise_scale(weight: Tensor, rows: AxisMap, columns: AxisMap, snr_db: float) -> Tensor:
    """Return the root mean square of the noise of each target row.

    The signal is the divided block W/n that the row belongs to; there is a block for each copy of the outputs and each
    part of a fused projection. Its power is the uncentred mean square.

    Returns:
        (target rows,) in the weight's dtype.
    """
    row_power = weight.square().mean(dim=1)[rows.index] * rows.expand.to(weight).square() / columns.copies**2
    copy_number = rows.copy_number
    block_of_row = rows.part * (int(copy_number.max()) + 1) + copy_number
    blocks = int(block_of_row.max()) + 1
    total = row_power.new_zeros(blocks).index_add_(0, block_of_row, row_power)
    count = row_power.new_zeros(blocks).index_add_(0, block_of_row, torch.ones_like(row_power))
    signal = (total / count.clamp(min=1))[block_of_row]
    return (signal / 10 ** (snr_db / 10)).sqrt()


def cancelling_noise(scale: Tensor, columns: AxisMap, generator: torch.Generator) -> Tensor:
    """Draw Gaussian rows that sum to zero over the copies of each input, with an exact root mean square each.

    Args:
        scale: (rows,) root mean square of each row.
        columns: The input axis, which must repeat its elements.
        generator: Source of randomness.

    Returns:
        (rows, target inputs) in the dtype of `scale`.
    """
    noise = _uniform_noise(scale, columns, generator) if columns.uniform else _uneven_noise(scale, columns, generator)
    length = torch.linalg.vector_norm(noise, dim=1)
    noise *= (scale * noise.shape[1] ** 0.5 / length)[:, None]
    return noise


def _uniform_noise(scale: Tensor, columns: AxisMap, generator: torch.Generator) -> Tensor:
    shape = (len(scale), int(columns.copies), columns.source_length)
    noise = torch.randn(shape, generator=generator, dtype=scale.dtype)
    noise -= noise.mean(dim=1, keepdim=True)
    return noise.flatten(1).index_select(1, columns.copy_number * columns.source_length + columns.index)


def _uneven_noise(scale: Tensor, columns: AxisMap, generator: torch.Generator) -> Tensor:
    """Draw noise where inputs have different numbers of copies: an input with one copy gets none.

    All fillers hold the same value, so they count as copies of each other.
    """
    group = torch.where(columns.filler, columns.source_length, columns.index)
    noise = torch.randn((len(scale), len(group)), generator=generator, dtype=scale.dtype)
    sums = noise.new_zeros(len(scale), columns.source_length + 1).index_add_(1, group, noise)
    counts = torch.bincount(group, minlength=columns.source_length + 1).clamp(min=1)
    noise -= (sums / counts).index_select(1, group)
    return noise.mul_((counts > 1)[group])  # exactly zero, not rounding, where there is nothing to cancel with


def redrawn_units(units: str, count: int, share: float, seed: int) -> Tensor:
    """Draw which hidden units of an expert are redrawn: the same for its matrices and for their moments.

    Args:
        units: Name of the expert's hidden units.
        count: Number of the expert's hidden units.
        share: Share of them that are redrawn.
        seed: Seed of the growth.

    Returns:
        (round(share * count),) int64 indices.
    """
    return torch.randperm(count, generator=random_generator(seed, units, 0))[: round(share * count)]


def random_generator(seed: int, tensor: str, first_row: int) -> torch.Generator:
    """Return a generator for rows of a tensor; it depends on these arguments alone, not on when or where it is used."""
    key = hashlib.sha256(f"{seed}/{tensor}/{first_row}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "little", signed=False) >> 1)
