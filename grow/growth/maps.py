"""Axis maps: how one axis of s elements becomes one of S, for activations and for those who read them.

    E (S x s) expands an activation:  x' = E x          E[i, index[i]] = expand[i]
    R (s x S) reads it back:          x  = R x'         R[index[i], i] = read[i],     R E = I

    tile n = 2        [a b]  ->  [a b a b]              expand 1, read 1/2
    inside a group    [a b | c d]  ->  [a b a b | c d c d]     query heads whose key-value heads stay (GQA)
    rotary pairs      (a0 a1 | b0 b1)  ->  (a0 a0 a1 a1 | b0 b0 b1 b1)
                      of half-split pairs: pair j goes to pairs n*j ... n*j + n - 1, whose first rotates exactly as pair
                      j did, because theta^(-2nj / nd) = theta^(-2j / d). Queries keep only that one, times sqrt(n).

An axis that is a product of factors has the Kronecker product of their maps. Every map is a gather and a scale.

Source: HyperCloning, arXiv 2409.12903, sections 3.2 and 3.3 (tiling; copies of a head_dim lie inside each head).
Beyond the paper: the grouped form, and head_dim under rotary positions, which the paper leaves out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class AxisMap:
    """A growth of one axis: for each of S target elements, its source element and two gains."""

    index: Tensor  # (S,) int64
    expand: Tensor  # (S,) float64, the gain of whoever writes the axis
    read: Tensor  # (S,) float64, the gain of whoever reads it
    copies: int
    """How many target elements stand for each source element."""
    part: Tensor  # (S,) int64, which concatenated part an element belongs to

    @property
    def copy_number(self) -> Tensor:
        """(S,) int64: how many earlier elements stand for the same source element."""
        order = torch.argsort(self.index, stable=True)
        number = torch.empty_like(self.index)
        number[order] = torch.arange(len(order)) % self.copies
        return number

    @property
    def source_length(self) -> int:
        return len(self.index) // self.copies


def make_map(index: Tensor, copies: int, *, expand: Tensor | None = None, read: Tensor | None = None) -> AxisMap:
    """A map whose gains are 1 to write and 1/copies to read, unless given."""
    return AxisMap(
        index=index,
        expand=torch.ones(len(index), dtype=torch.float64) if expand is None else expand,
        read=torch.full((len(index),), 1 / copies, dtype=torch.float64) if read is None else read,
        copies=copies,
        part=torch.zeros_like(index),
    )


def tile(length: int, copies: int) -> AxisMap:
    """[a b] -> [a b a b ...]; with one copy, the identity."""
    return make_map(torch.arange(length).repeat(copies), copies)


def grouped(groups: int, group_size: int, *, group_copies: int, copies_in_group: int) -> AxisMap:
    """Query heads under grouped queries: all groups are tiled, and the heads of a group are repeated inside it."""
    heads = torch.arange(groups * group_size).view(1, groups, 1, group_size)
    index = heads.expand(group_copies, groups, copies_in_group, group_size).reshape(-1)
    return make_map(index, group_copies * copies_in_group)


def query_of_tiled_head(head_dim: int, copies: int) -> AxisMap:
    """Queries whose scores are sums over all copies: times 1/sqrt(n), as the stock scale is 1/sqrt(n head_dim)."""
    plain = tile(head_dim, copies)
    root = copies**-0.5
    return make_map(plain.index, copies, expand=plain.expand * root, read=plain.read / root)


def key_under_rotary(rotary_dims: int, copies: int) -> AxisMap:
    """Keys of rotated elements: source pair j on the n target pairs from n*j on."""
    half = torch.arange(rotary_dims // 2).repeat_interleave(copies)
    return make_map(torch.cat([half, half + rotary_dims // 2]), copies)


def query_under_rotary(rotary_dims: int, copies: int) -> AxisMap:
    """Queries of rotated elements: only the pair that keeps its frequency, times sqrt(n); zeros elsewhere."""
    keys = key_under_rotary(rotary_dims, copies)
    kept = (keys.copy_number == 0).to(torch.float64)
    root = copies**0.5
    return make_map(keys.index, copies, expand=kept * root, read=kept / root)


def concatenate(maps: list[AxisMap], *, label_parts: bool = True) -> AxisMap:
    """Maps of the parts of one axis, one after the other; all repeat their elements alike."""
    copies = {axis_map.copies for axis_map in maps}
    assert len(copies) == 1, "the parts of a fused axis grow by one factor"
    offsets = torch.tensor([0, *(axis_map.source_length for axis_map in maps)]).cumsum(0)
    shifted = [axis_map.index + offset for axis_map, offset in zip(maps, offsets[:-1], strict=True)]
    labels = [torch.full_like(axis_map.index, number) for number, axis_map in enumerate(maps)]
    return AxisMap(
        index=torch.cat(shifted),
        expand=torch.cat([axis_map.expand for axis_map in maps]),
        read=torch.cat([axis_map.read for axis_map in maps]),
        copies=copies.pop(),
        part=torch.cat(labels) if label_parts else torch.zeros_like(torch.cat(labels)),
    )


def product(outer: AxisMap, inner: AxisMap) -> AxisMap:
    """The map of an axis that is `outer` blocks of `inner`: the Kronecker product of the two."""
    return AxisMap(
        index=(outer.index[:, None] * inner.source_length + inner.index).flatten(),
        expand=(outer.expand[:, None] * inner.expand).flatten(),
        read=(outer.read[:, None] * inner.read).flatten(),
        copies=outer.copies * inner.copies,
        part=inner.part.repeat(len(outer.index)),
    )
