"""The axis table of a family: which named axis each dimension of each parameter is, and what it reads and writes.

A line of a table is a parameter of the checkpoint and its axes:

    model.layers.{layer}.self_attn.q_proj.weight    heads*query <- embed      writes heads x query, reads embed
    model.embed_tokens.weight                       vocab, embed              two axes, both written
    model.norm.weight                               head_in                   one axis, written

An axis is a product of factors, outermost first, as it lies in memory: `heads*query`. A factor may be a
concatenation: `heads*(query|key|value)` is GPT-NeoX's fused projection. A factor is the name of an axis map.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

Factor = tuple[str, ...]  # the names of the concatenated parts; usually one
Axis = tuple[Factor, ...]  # a product, outermost factor first


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One line of an axis table."""

    pattern: re.Pattern[str]
    writes: tuple[Axis, ...]
    """Axis of each leading dimension: what the parameter puts out."""
    reads: Axis | None
    """Axis of the last dimension where it contracts with an activation."""

    @property
    def is_head(self) -> bool:
        """Whether this is the unembedding, whose copies never get noise (it would be the noise of the logits)."""
        return self.reads is not None and self.writes[0] == (("vocab",),)


def parse_table(text: str) -> tuple[Parameter, ...]:
    """Read an axis table; see the module's first lines for the notation."""
    return tuple(_parse_line(line) for line in text.strip().splitlines() if line.strip())


def _parse_line(line: str) -> Parameter:
    name, axes = line.split(maxsplit=1)
    written, _, read = axes.partition("<-")
    pattern = re.escape(name).replace(re.escape("{layer}"), r"(?P<layer>\d+)")
    return Parameter(
        pattern=re.compile(pattern),
        writes=tuple(_parse_axis(axis) for axis in written.split(",")),
        reads=_parse_axis(read) if read else None,
    )


def _parse_axis(text: str) -> Axis:
    return tuple(tuple(factor.strip(" ()").split("|")) for factor in text.strip().split("*"))


def find_parameter(table: tuple[Parameter, ...], name: str) -> Parameter | None:
    """The line that describes a parameter, or None."""
    return next((line for line in table if line.pattern.fullmatch(name)), None)


def axis_length(axis: Axis, lengths: Mapping[str, int]) -> int:
    """Elements along an axis, given those of each named factor."""
    total = 1
    for factor in axis:
        total *= sum(lengths[part] for part in factor)
    return total
