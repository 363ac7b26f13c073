"""Axis maps: how one axis of s elements becomes one of S, for the weights that write it and those that read it.

    E (S x s) expands an activation:  x' = E x          E[i, index[i]] = expand[i]
    R (s x S) reads it back:          x  = R x'         R[index[i], i] = read[i],     R E = I

    tile n = 2        [a b]  ->  [a b a b]              expand 1, read 1/2
    uneven            [a b]  ->  [a b a]                any index map: read 1/c, c being the copies of each element
    isometric         [a b]  ->  [ka/V2 kb ka/V2]       V2 = sqrt(2), k = sqrt(S/s): E^T E = (S/s) I for any index map
    filled            [a b]  ->  [ka kb 0]  or  [ka kb k(a+b)/2]       whole copies and a filler: zeros, or the mean
    unread            [a b]  ->  [a b a]                expand 1; read 1 1 0: new units that no weight reads yet
    inside a group    [a b | c d]  ->  [a b a b | c d c d]     query heads whose key-value heads stay (GQA)
    rotary pairs      (a0 a1 | b0 b1)  ->  (a0 a0 a1 a1 | b0 b0 b1 b1)
                      of half-split pairs: pair j goes to pairs n*j ... n*j + n - 1. The first of them rotates exactly
                      as pair j did, because theta^(-2nj / nd) = theta^(-2j / d). Queries keep only that one, times
                      sqrt(n).

Norms: an RMSNorm sees the same root mean square where E^T E = (S/s) I; a LayerNorm needs equal expansions and equal
copies too, and a filler that holds the mean, which its centring turns into 0. Its gain and its eps then stay the same.
An axis that is a product of factors has the Kronecker product of their maps. Every map is a gather and a scale.

Sources: tiling, HyperCloning, arXiv 2409.12903, sections 3.2 and 3.3 (copies of a head_dim lie inside each head); index
maps, Net2Net, arXiv 1511.05641, and bert2BERT's FPI, arXiv 2110.07143; fillers, LEMON, arXiv 2310.07999.
Deviations: the grouped form, and head_dim under rotary positions, which HyperCloning leaves out. LEMON keeps the copies
and puts sqrt(kD/D') into the norm's gain and its square into eps; here the stream carries the inverse of it instead, so
that families without gains (OLMo) or with a fixed eps (OPT) are exact too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grow.families.table import Axis, Factor


@dataclass(frozen=True, kw_only=True, slots=True)
class AxisMap:
    """How one axis grows: for each of S target elements, its source element and two gains."""

    index: Tensor  # (S,) int64
    expand: Tensor  # (S,) float64, gain of the weights that write the axis
    read: Tensor  # (S,) float64, gain of the weights that read it
    source_length: int
    part: Tensor  # (S,) int64, number of the concatenated part that an element belongs to
    filler: Tensor  # (S,) bool, elements that stand for no source element; readers take the column at `index`
    averaged: bool = False
    """Whether a filler holds the mean of the axis (times its `expand`) instead of zero."""

    @property
    def copies(self) -> float:
        """Number of target elements over source elements; an int where it is whole."""
        whole, rest = divmod(len(self.index), self.source_length)
        return len(self.index) / self.source_length if rest else whole

    @property
    def counts(self) -> Tensor:
        """(s,) int64: how many target elements stand for each source element, fillers left out."""
        return torch.bincount(self.index[~self.filler], minlength=self.source_length)

    @property
    def is_identity(self) -> bool:
        """Whether every element stays as it is."""
        return (
            torch.equal(self.index, torch.arange(self.source_length))
            and bool((self.expand == 1).all())
            and bool((self.read == 1).all())
            and not bool(self.filler.any())
        )

    @property
    def copy_number(self) -> Tensor:
        """(S,) int64: how many earlier elements come from the same source element."""
        order = torch.argsort(self.index, stable=True)
        counts = torch.bincount(self.index, minlength=self.source_length)
        number = torch.empty_like(self.index)
        number[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        return number

    @property
    def uniform(self) -> bool:
        """Whether every source element has the same number of copies, and all are read alike."""
        counts = self.counts
        alike = bool((counts == counts[0]).all()) and not bool(self.filler.any())
        return alike and bool((self.expand * self.read * counts[0] - 1).abs().max() < 1e-12)


def make_map(index: Tensor, length: int, *, expand: Tensor | None = None, read: Tensor | None = None) -> AxisMap:
    """Make a map of `length` source elements; gains that are not given are 1 to write and 1/copies to read."""
    shares = 1 / torch.bincount(index, minlength=length).to(torch.float64)
    return AxisMap(
        index=index,
        expand=torch.ones(len(index), dtype=torch.float64) if expand is None else expand,
        read=shares[index] if read is None else read,
        source_length=length,
        part=torch.zeros_like(index),
        filler=torch.zeros(len(index), dtype=torch.bool),
    )


def tile(length: int, copies: int) -> AxisMap:
    """Return the map [a b] -> [a b a b ...]; with one copy, the identity."""
    return make_map(torch.arange(length).repeat(copies), length)


def cyclic(length: int, target: int) -> Tensor:
    """Return `target` indices 0 1 2 ... that start again at 0 after `length`."""
    return torch.arange(target) % length


def drawn(length: int, target: int, generator: torch.Generator) -> Tensor:
    """Draw every index once, then indices out of all of them (bert2BERT's f: uniform, with replacement)."""
    return torch.cat([torch.arange(length), torch.randint(length, (target - length,), generator=generator)])


def dealt(length: int, target: int, generator: torch.Generator) -> Tensor:
    """Draw every index once, then shuffled rounds of all of them, so that numbers of copies differ by at most one."""
    rounds = [torch.randperm(length, generator=generator) for _ in range(-(-target // length) - 1)]
    return torch.cat([torch.arange(length), *rounds])[:target]


def isometric(index: Tensor, length: int) -> AxisMap:
    """Return an index map whose expansion keeps lengths up to one factor: E^T E = (S/s) I."""
    plain = make_map(index, length)
    expand = (len(index) / (length * plain.counts[index].to(torch.float64))).sqrt()
    return replace(plain, expand=expand, read=plain.read / expand)


def filled(length: int, target: int, *, copies: int, averaged: bool) -> AxisMap:
    """Return the map of whole copies and a filler, scaled so that the root mean square stays the same.

    The k copies of D elements are spread over D' elements, so each is multiplied by sqrt(D' / kD).

    Args:
        length: Number of source elements, D.
        target: Number of target elements, D'.
        copies: Number of whole copies, k.
        averaged: Whether the filler holds the mean of the axis instead of zero.
    """
    root = (target / (copies * length)) ** 0.5
    filler = torch.arange(target) >= copies * length
    expand = torch.full((target,), root, dtype=torch.float64)
    plain = make_map(cyclic(length, target), length, expand=expand, read=1 / (copies * expand))
    stream = replace(plain, filler=filler, averaged=averaged)
    return stream if averaged else after_norm(stream)


def unread(length: int, target: int) -> AxisMap:
    """Return the map whose copies are written like their element but not read: only the first one is."""
    index = cyclic(length, target)
    return make_map(index, length, read=(torch.arange(target) < length).to(torch.float64))


def after_norm(stream: AxisMap) -> AxisMap:
    """Return the map of the same axis behind a norm, whose centring turned a filler's mean into zero."""
    return replace(stream, expand=stream.expand.masked_fill(stream.filler, 0.0), averaged=False)


def between(read: AxisMap, written: AxisMap) -> AxisMap:
    """Return the map of a diagonal weight, such as a norm's gain, that reads one form of an axis and writes another."""
    ratio = torch.where(read.filler, 1.0, written.expand / read.expand)
    return replace(written, expand=ratio, read=read.expand * written.read, averaged=False)


def rescaled(axis_map: AxisMap, factor: float) -> AxisMap:
    """Return the map whose elements are written `factor` times as large, and read accordingly."""
    if factor == 1:
        return axis_map
    return replace(axis_map, expand=axis_map.expand * factor, read=axis_map.read / factor)


def transposed(axis_map: AxisMap) -> AxisMap:
    """Return the map with writing and reading exchanged.

    This is the map of the axis before a tied head, whose weight is the table that wrote the stream.
    """
    return replace(
        axis_map, expand=axis_map.read.masked_fill(axis_map.filler, 0.0), read=axis_map.expand, averaged=False
    )


def query_of_tiled_head(head_dim: int, copies: int) -> AxisMap:
    """Return the map of queries whose keys are tiled, so that their scores sum over n copies.

    The stock scale 1/sqrt(n head_dim) divides them by sqrt(n); the queries carry the other 1/sqrt(n).
    """
    plain = tile(head_dim, copies)
    root = copies**-0.5
    return replace(plain, expand=plain.expand * root, read=plain.read / root)


def key_under_rotary(rotary_dims: int, copies: int) -> AxisMap:
    """Return the map of rotated key elements: source pair j fills n target pairs; queries read the first of them."""
    half = torch.arange(rotary_dims // 2).repeat_interleave(copies)
    keys = make_map(torch.cat([half, half + rotary_dims // 2]), rotary_dims)
    return replace(keys, read=(keys.copy_number == 0).to(torch.float64))


def query_under_rotary(rotary_dims: int, copies: int) -> AxisMap:
    """Return the map of rotated query elements: the pair that keeps its frequency, times sqrt(n); zeros elsewhere."""
    keys = key_under_rotary(rotary_dims, copies)
    root = copies**0.5
    return replace(keys, expand=keys.read * root, read=torch.full_like(keys.read, 1 / root))


def concatenate(maps: list[AxisMap], *, label_parts: bool = True) -> AxisMap:
    """Join the maps of the parts of one axis, one after the other."""
    offsets = torch.tensor([0, *(axis_map.source_length for axis_map in maps)]).cumsum(0)
    shifted = [axis_map.index + offset for axis_map, offset in zip(maps, offsets[:-1], strict=True)]
    labels = torch.cat([torch.full_like(axis_map.index, number) for number, axis_map in enumerate(maps)])
    return AxisMap(
        index=torch.cat(shifted),
        expand=torch.cat([axis_map.expand for axis_map in maps]),
        read=torch.cat([axis_map.read for axis_map in maps]),
        source_length=int(offsets[-1]),
        part=labels if label_parts else torch.zeros_like(labels),
        filler=torch.cat([axis_map.filler for axis_map in maps]),
    )


def cut(axis_map: AxisMap, part: slice) -> AxisMap:
    """Return the map of some of the target's elements."""
    fields = {name: getattr(axis_map, name)[part] for name in ("index", "expand", "read", "part", "filler")}
    return replace(axis_map, **fields)


def product(outer: AxisMap, inner: AxisMap) -> AxisMap:
    """Return the map of an axis that is `outer` blocks of `inner`: the Kronecker product of the two maps."""
    return AxisMap(
        index=(outer.index[:, None] * inner.source_length + inner.index).flatten(),
        expand=(outer.expand[:, None] * inner.expand).flatten(),
        read=(outer.read[:, None] * inner.read).flatten(),
        source_length=outer.source_length * inner.source_length,
        part=inner.part.repeat(len(outer.index)),
        filler=(outer.filler[:, None] | inner.filler).flatten(),
    )


def axis_of(axis: Axis, maps: Mapping[str, AxisMap]) -> AxisMap:
    """Return the map of an axis in an axis table: the product of its factors, each a concatenation of parts."""
    grown, *inner = (_of_factor(factor, maps) for factor in axis)
    for factor in inner:
        grown = product(grown, factor)
    return grown


def _of_factor(factor: Factor, maps: Mapping[str, AxisMap]) -> AxisMap:
    parts = [maps[part] if isinstance(part, str) else axis_of(part, maps) for part in factor]
    return concatenate(parts) if len(parts) > 1 else parts[0]
