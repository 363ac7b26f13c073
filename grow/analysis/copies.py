"""The columns of a grown matrix that are copies of the same source column, by growth.json and the axis table.

    embed x 2                  [ a b | a b ]              copy 0: columns 0 1       copy 1: columns 2 3
    heads x 2, head_dim x 2    [ ab ab | cd cd ] ...      each head's elements repeat inside it, then the heads repeat
    query heads in groups      [ a b a b | c d c d ]      where the number of key-value heads stayed

Only growth by whole copies (width=tile) has this layout; matrices grown by other index maps or fillers are left out.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from grow.families.family import Family
from grow.families.registry import family_of
from grow.families.table import Axis, Parameter, find_parameter

_SIZE_OF = {
    part: size
    for size, parts in {
        "embed": ("embed", "normed"),
        "word": ("word", "head_in"),
        "ffn": ("ffn",),
        "heads": ("heads", "raw_heads"),
        "kv_heads": ("kv_heads", "raw_kv_heads"),
        "head_dim": ("query", "key", "value"),
    }.items()
    for part in parts
}
"""Factor of an axis -> the size that determines its length."""


def column_copies(config: PreTrainedConfig, growth: Mapping[str, Any], names: list[str]) -> dict[str, Tensor]:
    """Return the columns of each cloned matrix, by copy.

    Args:
        config: Stock configuration of the grown model.
        growth: Content of its growth.json.
        names: Names of the parameters in its checkpoint.

    Returns:
        Parameter name -> column numbers, int64 (copies, source columns); matrices without repeated columns are left
        out.
    """
    if growth["growth"].get("width", "tile") != "tile":
        return {}
    family = family_of(config.model_type)
    factors, sizes = growth["factors"], family.sizes(config)
    found = {}
    for name in names:
        axis = _column_axis(find_line(family, name))
        parts = [str(part) for (part, *_) in axis or ()]
        if axis is None or not all(part in _SIZE_OF for part in parts):
            continue
        if any(factors.get(_SIZE_OF[part], 1) % 1 for part in parts):
            continue
        index = _source_elements(axis, factors, sizes)
        copies = len(index) // (int(index.max()) + 1)
        if copies > 1:
            found[name] = torch.argsort(index, stable=True).view(-1, copies).T.contiguous()
    return found


def find_line(family: Family, name: str) -> Parameter | None:
    """Return the line of the axis table for a parameter, named as in checkpoints or as in the stock module."""
    return find_parameter(family.table, family.stored_name(name))


def _column_axis(line: Parameter | None) -> Axis | None:
    """Return the axis of a matrix's columns: the inputs of a linear weight, or the width of an embedding table."""
    if line is None or line.transposed:
        return None
    if line.reads is not None:
        return line.reads
    return line.writes[1] if len(line.writes) == 2 else None


def _source_elements(axis: Axis, factors: Mapping[str, float], sizes: Mapping[str, int]) -> Tensor:
    """Return the source element that each element of a grown axis is a copy of, int64 (columns,)."""
    index = torch.zeros(1, dtype=torch.int64)
    for part, *_ in axis:
        inner = _tiled(str(part), factors, sizes)
        index = (index[:, None] * (int(inner.max()) + 1) + inner).flatten()
    return index


def _tiled(part: str, factors: Mapping[str, float], sizes: Mapping[str, int]) -> Tensor:
    """Return the same for one factor of an axis; query heads repeat within their group of a key-value head."""
    size = _SIZE_OF[part]
    copies = int(factors.get(size, 1))
    length = sizes[size] // copies
    if size != "heads":
        return torch.arange(length).repeat(copies)
    groups_copies = int(factors.get("kv_heads", 1))
    groups = sizes["kv_heads"] // groups_copies
    heads = torch.arange(length).view(1, groups, 1, length // groups)
    return heads.expand(groups_copies, groups, copies // groups_copies, length // groups).flatten()
