"""The plan of a growth: for every tensor of the target, which source tensor it comes from and how its axes grow.

Made from two configurations and a checkpoint's header, before anything is read or written. Nothing here knows a
family by name: a family is its axis table and its sizes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor
from transformers import PreTrainedConfig

from grow.common.errors import CheckpointError, GrowthError
from grow.families.build import model_on_meta
from grow.families.family import Family, Sizes
from grow.families.registry import family_of
from grow.families.table import Axis, find_parameter
from grow.families.weights import TensorInfo, WeightReader
from grow.growth import maps
from grow.growth.maps import AxisMap
from grow.growth.settings import GrowthSettings
from grow.growth.target import family_name, writes_head_input
from grow.growth.values import splits_diagonally

_NEVER_GROWN: tuple[Axis, ...] = ((("vocab",),), (("positions",),))
_GRID_SCALING = ("default", "linear", "llama3")  # kinds of rope whose frequencies depend on base and pair alone


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorPlan:
    """How one target tensor is made."""

    target: TensorInfo
    source: str
    rows: AxisMap
    columns: AxisMap | None
    """None for vectors."""
    contracts: bool
    """Whether the columns are read (a linear weight) or written (an embedding, a position table)."""
    share: str
    snr_db: float | None

    @property
    def column_gain(self) -> Tensor:
        assert self.columns is not None
        return self.columns.read if self.contracts else self.columns.expand

    @property
    def input_copies(self) -> int:
        """How often the inputs of this weight are repeated; 1 where it reads none."""
        return self.columns.copies if self.columns is not None and self.contracts else 1

    @property
    def output_copies(self) -> int:
        written = self.rows.copies
        return written if self.contracts or self.columns is None else written * self.columns.copies

    def as_json(self) -> dict[str, object]:
        """One line of growth.json."""
        return {
            "source": self.source,
            "shape": list(self.target.shape),
            "output_copies": self.output_copies,
            "input_copies": self.input_copies,
            "share": self.share,
            "snr_db": self.snr_db,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowthPlan:
    """Everything that will be written."""

    tensors: list[TensorPlan]
    factors: dict[str, float]

    @property
    def bytes(self) -> int:
        return sum(tensor.target.bytes for tensor in self.tensors)

    @property
    def summary(self) -> str:
        """Tensors, parameters and factors, for people."""
        parameters = sum(prod(tensor.target.shape) for tensor in self.tensors)
        grown = ", ".join(f"{size} x{factor:g}" for size, factor in self.factors.items() if factor != 1)
        return f"{len(self.tensors)} tensors, {parameters:,} parameters, {grown or 'no size changed'}"


def plan_growth(
    reader: WeightReader, source: PreTrainedConfig, target: PreTrainedConfig, growth: GrowthSettings
) -> GrowthPlan:
    """Plan the growth of a checkpoint into a target architecture.

    Raises:
        GrowthError: the two do not fit: another family, sizes that do not divide, a head that cannot be tied.
        CheckpointError: the source lacks a tensor or has one of an unexpected shape.
    """
    family = family_of(source.model_type)
    check_growable(family, source, target)
    axes = axis_maps(family, source, target)
    _check_head(family, target, axes["head_in"].copies)
    before, after = family.sizes(source), family.sizes(target)
    factors = {size: after[size] / before[size] for size in after}
    _check_copies(growth, factors)
    parameters = model_on_meta(target).named_parameters()  # a tied head is not among them
    tensors = [
        _plan_tensor(family, reader, axes, growth, family_name(family, name), tuple(parameter.shape))
        for name, parameter in parameters
    ]
    return GrowthPlan(tensors=tensors, factors=factors)


def check_growable(family: Family, source: PreTrainedConfig, target: PreTrainedConfig) -> None:
    """Refuse pairs of architectures that no width growth connects.

    Raises:
        GrowthError: naming every attribute that differs.
    """
    if target.model_type != source.model_type:
        raise GrowthError(
            f"the source is a {source.model_type} model, the target a {target.model_type} model. Growth stays within a "
            "family: choose a target of the source's family, or another growth.source."
        )
    differences = family.differences(source, target)
    if differences:
        listed = ", ".join(f"{name}: {old!r} -> {new!r}" for name, (old, new) in differences.items())
        raise GrowthError(
            f"source and target compute different functions whatever their weights ({listed}). "
            "Choose a target of the source's kind, or set these on the target."
        )
    before, after = family.sizes(source), family.sizes(target)
    for size in ("layers", "vocab"):
        if before[size] != after[size]:
            raise GrowthError(
                f"{size}: {before[size]} in the source, {after[size]} in the target. Width growth keeps it; "
                f"choose a target with {size}={before[size]}."
            )
    if after["head_dim"] != before["head_dim"]:
        _check_head_dim(source)


def _check_head_dim(source: PreTrainedConfig) -> None:
    clip = getattr(source, "clip_qkv", None)
    if clip is not None:
        raise GrowthError(
            f"head_dim cannot grow exactly where queries are clipped (clip_qkv={clip}): grown queries are larger. "
            "Grow the number of heads instead (scale.heads)."
        )
    kind = (getattr(source, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind not in _GRID_SCALING:
        raise GrowthError(
            f"head_dim cannot grow exactly under rope_type={kind!r}, whose frequencies depend on head_dim itself. "
            "Grow the number of heads instead (scale.heads)."
        )


def axis_maps(family: Family, source: PreTrainedConfig, target: PreTrainedConfig) -> dict[str, AxisMap]:
    """The map of every axis that an axis table of this family can name.

    Raises:
        GrowthError: a size of the target is not a multiple of the source's.
    """
    before, after = family.sizes(source), family.sizes(target)
    copies = {size: _factor(size, before, after) for size in ("embed", "word", "ffn", "heads", "kv_heads", "head_dim")}
    axes = {size: maps.tile(before[size], copies[size]) for size in ("embed", "word", "ffn", "kv_heads")}
    axes["heads"] = _heads(before, copies)
    axes["value"] = maps.tile(before["head_dim"], copies["head_dim"])
    axes["query"], axes["key"] = _query_and_key(before["head_dim"], copies["head_dim"], family.rotary_dims(source))
    axes["head_in"] = _head_input(before["word"], copies["word"], tied=bool(target.tie_word_embeddings))
    return axes


def _factor(size: str, before: Sizes, after: Sizes) -> int:
    if after[size] % before[size]:
        raise GrowthError(
            f"{size}: the target's {after[size]} is not a multiple of the source's {before[size]}. "
            f"Cloning needs whole factors; {before[size]} x {max(after[size] // before[size], 1)} = "
            f"{before[size] * max(after[size] // before[size], 1)} is the nearest below."
        )
    return after[size] // before[size]


def _heads(before: Sizes, copies: Mapping[str, int]) -> AxisMap:
    if copies["heads"] % copies["kv_heads"]:
        raise GrowthError(
            f"kv_heads grow by {copies['kv_heads']}, query heads by {copies['heads']}: the second must be a multiple "
            "of the first, so that each group keeps its key-value head."
        )
    return maps.grouped(
        before["kv_heads"],
        before["heads"] // before["kv_heads"],
        group_copies=copies["kv_heads"],
        copies_in_group=copies["heads"] // copies["kv_heads"],
    )


def _query_and_key(head_dim: int, copies: int, rotary_dims: int) -> tuple[AxisMap, AxisMap]:
    plain = head_dim - rotary_dims
    rotated = maps.query_under_rotary(rotary_dims, copies), maps.key_under_rotary(rotary_dims, copies)
    tiled = maps.query_of_tiled_head(plain, copies), maps.tile(plain, copies)
    query, key = (maps.concatenate([*pair], label_parts=False) for pair in zip(rotated, tiled, strict=True))
    return query, key


def _head_input(length: int, copies: int, *, tied: bool) -> AxisMap:
    """A tied head is the embedding table, which is never divided: whoever writes its input is, instead."""
    plain = maps.tile(length, copies)
    if not tied:
        return plain
    return maps.make_map(plain.index, copies, expand=plain.read, read=plain.expand)


def _plan_tensor(
    family: Family,
    reader: WeightReader,
    axes: Mapping[str, AxisMap],
    growth: GrowthSettings,
    name: str,
    shape: tuple[int, ...],
) -> TensorPlan:
    line = find_parameter(family.table, name)
    if line is None:
        raise GrowthError(f"{name}: the axis table of {family.model_type} has no line for this parameter.")
    source = reader.info(_find_source(family, reader, name))
    dims = [*line.writes, *([line.reads] if line.reads else [])]
    grown = [_map_of(axis, axes, size) for axis, size in zip(dims, shape, strict=True)]
    expected = tuple(axis_map.source_length for axis_map in grown)
    if source.shape != expected:
        raise CheckpointError(
            f"{reader.directory}: {source.name} has shape {source.shape}, but its config.json says {expected}. "
            "The two do not belong together; fetch the checkpoint again."
        )
    rows, columns = grown[0], grown[1] if len(grown) == 2 else None
    reads = columns if line.reads is not None else None
    return TensorPlan(
        target=TensorInfo(name=name, shape=shape, dtype=source.dtype),
        source=source.name,
        rows=rows,
        columns=columns,
        contracts=reads is not None,
        share=growth.share if reads is not None and splits_diagonally(rows, reads, growth.share) else "symmetric",
        snr_db=growth.snr_db if reads is not None and reads.copies > 1 and not line.is_head else None,
    )


def _map_of(axis: Axis, axes: Mapping[str, AxisMap], size: int) -> AxisMap:
    if axis in _NEVER_GROWN:
        return maps.tile(size, 1)
    factors = [maps.concatenate([axes[part] for part in factor]) for factor in axis]
    grown = factors[0]
    for factor in factors[1:]:
        grown = maps.product(grown, factor)
    return grown


def _find_source(family: Family, reader: WeightReader, name: str) -> str:
    """The source's name for a tensor: its own, one without the stock model's prefix, or the table of a tied head."""
    names = [name, family.renamed.get(name, name), name.partition(".")[2]]
    line = find_parameter(family.table, name)
    if line is not None and line.is_head:
        names += [_find_embedding(family, reader)]
    for candidate in names:
        if candidate in reader:
            return candidate
    raise CheckpointError(
        f"{reader.directory}: tensor {name} is missing. The checkpoint is incomplete; fetch it again."
    )


def _find_embedding(family: Family, reader: WeightReader) -> str:
    tables = (line for line in family.table if line.reads is None and line.writes[0] == (("vocab",),))
    pattern = next(tables).pattern.pattern.replace("\\", "")
    return pattern if pattern in reader else pattern.partition(".")[2]


def _check_head(family: Family, target: PreTrainedConfig, copies: int) -> None:
    if target.tie_word_embeddings and copies > 1 and not writes_head_input(family, target):
        raise GrowthError(
            f"a {family.model_type} model of this kind cannot keep its head tied while it grows: nothing before the "
            f"head can absorb the factor {copies}. Set model.tied_head=false."
        )


def _check_copies(growth: GrowthSettings, factors: Mapping[str, float]) -> None:
    grown = {size: factor for size, factor in factors.items() if factor != 1 and size != "positions"}
    if growth.share == "none" and grown:
        raise GrowthError(
            f"growth={growth.name} keeps every size, but the target is bigger than the source ({grown}). "
            "Choose a preset that grows, such as growth=hyperclone_noisy, or a target of the source's sizes."
        )
