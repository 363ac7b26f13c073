"""The axis table of a family: the named axis of each dimension of each parameter, and what it reads and writes.

Each line of a table is a parameter of the checkpoint and its axes:

    model.layers.{layer}.self_attn.q_proj.weight    heads*query <- embed      writes heads x query, reads embed
    model.embed_tokens.weight                       vocab, embed              two axes, both written
    model.layers.{layer}.input_layernorm.weight     normed ~ embed            a norm's gain: writes normed, over embed
    model.layers.{layer}.self_attn.q_proj.bias      heads*query               one axis, written
    transformer.h.{layer}.mlp.c_fc.weight           normed -> ffn             stored transposed: reads normed
    model.layers.{layer}.input_layernorm.weight     1 + normed ~ embed        a gain that the model adds 1 to

An axis is a product of factors, outermost first, as it lies in memory: `heads*query`. A factor is the name of an axis
map, or a concatenation of names or products: `heads*(query|key|value)` is GPT-NeoX's fused projection,
`(heads*query|kv_heads*key|kv_heads*value)` is Phi-3's.
"""

import re
from dataclasses import dataclass

Factor = tuple["str | Axis", ...]  # the concatenated parts, each a name or a product; usually one name
Axis = tuple[Factor, ...]  # a product, outermost factor first


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One line of an axis table."""

    pattern: re.Pattern[str]
    writes: tuple[Axis, ...]
    """Axes of the parameter's outputs: of all dimensions, or of all but the last where it `reads` that."""
    reads: Axis | None
    """Axis of the last dimension, where that is contracted with an activation; else None."""
    normalises: Axis | None = None
    """For the gain of a norm: the axis whose elements it normalises and scales into those of `writes`."""
    transposed: bool = False
    """Whether it is stored with its inputs as rows."""
    offset: float = 0.0
    """What the model adds to the stored values before it multiplies with them."""

    @property
    def is_layered(self) -> bool:
        """Whether every layer has such a parameter."""
        return "layer" in self.pattern.groupindex

    @property
    def is_head(self) -> bool:
        """Whether this is the unembedding; its copies get no noise, which would reach the logits directly."""
        return self.reads is not None and self.writes[0] == (("vocab",),)


def parse_table(text: str) -> tuple[Parameter, ...]:
    """Read an axis table, in the notation that the top of this module describes."""
    return tuple(_parse_line(line) for line in text.strip().splitlines() if line.strip())


def _parse_line(line: str) -> Parameter:
    name, axes = line.split(maxsplit=1)
    read, transposed, written = axes.partition("->")
    if not transposed:
        written, _, read = axes.partition("<-")
    written, _, normalised = written.partition("~")
    offset, added, written = written.rpartition("+")
    pattern = re.escape(name).replace(re.escape("{layer}"), r"(?P<layer>\d+)")
    pattern = pattern.replace(re.escape("{expert}"), r"(?P<expert>\d+)")
    return Parameter(
        pattern=re.compile(pattern),
        writes=tuple(map(_parse_axis, _split(written, ","))),
        reads=_parse_axis(read) if read else None,
        normalises=_parse_axis(normalised) if normalised else None,
        transposed=bool(transposed),
        offset=float(offset) if added else 0.0,
    )


def _parse_axis(text: str) -> Axis:
    return tuple(_parse_factor(factor) for factor in _split(text, "*"))


def _parse_factor(text: str) -> Factor:
    if not text.startswith("("):
        return (text,)
    return tuple(_parse_axis(part) if "*" in part else part for part in _split(text[1:-1], "|"))


def _split(text: str, separator: str) -> list[str]:
    """Split at the separators outside parentheses."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def axis_name(axis: Axis) -> str:
    """Return an axis as a table spells it."""
    factors = ["|".join(part if isinstance(part, str) else axis_name(part) for part in factor) for factor in axis]
    return "*".join(f"({text})" if "|" in text else text for text in factors)


def find_parameter(table: tuple[Parameter, ...], name: str) -> Parameter | None:
    """Return the line that describes a parameter; None where the table has none."""
    return next((line for line in table if line.pattern.fullmatch(name)), None)


def expert_of(line: Parameter, name: str) -> int | None:
    """Return the number of the expert that a parameter of this line belongs to; None where it belongs to none."""
    match = line.pattern.fullmatch(name)
    return int(match["expert"]) if match and "expert" in line.pattern.groupindex else None


def layer_of(line: Parameter, name: str) -> int | None:
    """Return the number of the layer that a parameter of this line belongs to; None where it belongs to none."""
    match = line.pattern.fullmatch(name)
    return int(match["layer"]) if match and line.is_layered else None


def in_layer(line: Parameter, name: str, layer: int | None) -> str:
    """Return the name of the same parameter in another layer; a parameter outside the layers keeps its name."""
    return _renumbered(line, name, "layer", layer)


def in_expert(line: Parameter, name: str, expert: int | None) -> str:
    """Return the name of the same parameter in another expert; a parameter outside the experts keeps its name."""
    return _renumbered(line, name, "expert", expert)


def _renumbered(line: Parameter, name: str, group: str, number: int | None) -> str:
    match = line.pattern.fullmatch(name)
    if number is None or match is None:
        return name
    start, end = match.span(group)
    return f"{name[:start]}{number}{name[end:]}"
