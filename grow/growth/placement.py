"""Where the tensors of sources side by side lie in the joined tensor: rows under rows, columns next to columns.

(q|k|v) of two sources      q_1            the parts of a concatenated axis lie together,
                                q_2        so a tensor is cut into them
                            k_1
                                k_2
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from grow.families.table import Axis
from grow.growth import maps
from grow.growth.made_tensors import TensorPart, TensorPlan
from grow.growth.maps import AxisMap
from grow.growth.one_source import NEVER_GROWN


def lengths_of_parts(axis: Axis, axes: Mapping[str, AxisMap]) -> list[int]:
    """Return the lengths of the concatenated parts of an axis; one where it is none, or concatenated head by head."""
    if axis in NEVER_GROWN:
        return []
    parts = axis[0] if len(axis) == 1 else (axis,)
    return [len(maps.axis_of(((part,),) if isinstance(part, str) else part, axes).index) for part in parts]


def placed(tensors: Sequence[TensorPlan], dims: Sequence[Axis], lengths: Sequence[list[int]]) -> list[TensorPart]:
    """Return where the rows and columns of each source's tensor lie in the joined one, part by part of its rows."""
    parts, row = [], 0
    for number in range(max(map(len, lengths))):
        column = 0
        for tensor, own in zip(tensors, lengths, strict=True):
            first = sum(own[:number])
            cut = tensor if len(own) == 1 else _with_rows(tensor, slice(first, first + own[number]))
            parts.append(TensorPart(tensor=cut, row=row, column=column))
            row += own[number]
            column += 0 if tensor.columns is None or dims[-1] in NEVER_GROWN else len(tensor.columns.index)
    if parts:
        return parts
    starts = accumulate((len(tensor.columns.index) if tensor.columns else 0 for tensor in tensors), initial=0)
    return [TensorPart(tensor=tensor, row=0, column=start) for tensor, start in zip(tensors, starts, strict=False)]


def _with_rows(tensor: TensorPlan, rows: slice) -> TensorPlan:
    """Restrict a tensor's plan to some of its rows."""
    width = rows.stop - rows.start
    shape = (*tensor.target.shape[:-1], width) if tensor.transposed else (width, *tensor.target.shape[1:])
    return replace(tensor, rows=maps.cut(tensor.rows, rows), target=replace(tensor.target, shape=shape))
