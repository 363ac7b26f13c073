"""Plans a growth from one source, out of two configurations and a checkpoint's header: no weight is read.

    target tensor  ->  its line in the axis table  ->  the map of each axis, and the source tensor it starts from

Nothing here knows a family by name: a family is its axis table and its sizes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedConfig

from grow.common.errors import CheckpointError, GrowthError
from grow.families.build import model_on_meta
from grow.families.experts import stored_tensors
from grow.families.family import Family
from grow.families.registry import family_of
from grow.families.table import Axis, Parameter, expert_of, find_parameter, in_expert, in_layer, layer_of
from grow.families.tensor_file import TensorInfo
from grow.families.weights import WeightReader
from grow.growth import maps
from grow.growth.axes import axis_maps
from grow.growth.claim import reasons_against
from grow.growth.compatible import check_copies, check_growable, check_head, check_layers
from grow.growth.depth import ends_branch, planned_layers, repeated_layers
from grow.growth.made_tensors import ExpertTensor, GrowthPlan, TensorPlan
from grow.growth.maps import AxisMap
from grow.growth.settings import GrowthSettings
from grow.growth.values import splits_diagonally, splits_unevenly

_NORMED: Axis = (("normed",),)
HIDDEN: Axis = (("ffn",),)
NEVER_GROWN: tuple[Axis, ...] = ((("vocab",),), (("positions",),))


def plan_one_source(
    reader: WeightReader, source: PreTrainedConfig, target: PreTrainedConfig, growth: GrowthSettings
) -> GrowthPlan:
    """Plan the growth of one checkpoint into a target architecture.

    Args:
        reader: Reader of the source.
        source: Configuration of the source.
        target: The architecture to grow into.
        growth: How to grow.

    Raises:
        GrowthError: source and target do not fit: another family, sizes that do not divide, a head that cannot be tied.
        CheckpointError: the source lacks a tensor, or has one of an unexpected shape.
    """
    family = family_of(source.model_type)
    check_growable(family, source, target)
    before, after = family.sizes(source), family.sizes(target)
    layers = planned_layers(growth, before["layers"], after["layers"])
    check_layers(family, source, target, layers)
    axes = axis_maps(family, source, target, growth)
    check_head(family, target, axes["head_in"].copies)
    factors = {size: after[size] / before[size] for size in after}
    check_copies(growth, factors)
    planner = SourcePlanner(
        family=family, reader=reader, axes=axes, growth=growth, layers=layers, tied=bool(source.tie_word_embeddings)
    )
    shapes = stored_tensors(family, model_on_meta(target))
    return GrowthPlan(
        tensors=[_with_expert_noise(planner.plan(name, shape), planner) for name, shape in shapes.items()],
        factors=factors,
        layers=layers,
        reasons=reasons_against(family, source, target, axes, growth, layers),
    )


def line_of(family: Family, name: str) -> Parameter:
    """Return the line of a parameter in a family's axis table.

    Raises:
        GrowthError: the table has none.
    """
    line = find_parameter(family.table, name)
    if line is None:
        raise GrowthError(f"{name}: the axis table of {family.model_type} has no line for this parameter.")
    return line


def _with_expert_noise(tensor: TensorPlan, planner: "SourcePlanner") -> TensorPlan | ExpertTensor:
    """Return the plan of a new expert's tensor with noise or redrawn units, where the growth asks for them."""
    growth = planner.growth
    if not tensor.new_expert or not (growth.redrawn or growth.expert_noise):
        return tensor
    return as_expert(line_of(planner.family, tensor.target.name), tensor, growth)


def as_expert(line: Parameter, tensor: TensorPlan, growth: GrowthSettings) -> ExpertTensor:
    """Return the plan of an expert's tensor with what the growth makes different in it.

    Args:
        line: Line of its name in the axis table.
        tensor: Plan of the tensor without noise and redrawn units.
        growth: How to grow.
    """
    name = tensor.target.name
    return ExpertTensor(
        tensor=tensor,
        units=f"layer {layer_of(line, name)} expert {expert_of(line, name)}",
        units_are_rows=line.writes[0] == HIDDEN,
        redrawn=growth.redrawn,
        noise=growth.expert_noise,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePlanner:
    """Plans tensors that come from one source; its fields are what these plans have in common."""

    family: Family
    reader: WeightReader
    axes: Mapping[str, AxisMap]
    growth: GrowthSettings
    layers: list[int]
    """Source layer of each target layer."""
    tied: bool
    """Whether the source's head is its embedding table, and so may be missing."""
    reader_number: int = 0
    """Number of the source, out of several."""
    seen: Mapping[str, AxisMap] | None = None
    """The axes as norms see them; None where they see them as they are."""

    @property
    def repeated(self) -> set[int]:
        """Target layers that repeat a layer below them."""
        return repeated_layers(self.layers)

    def plan(self, name: str, shape: tuple[int, ...]) -> TensorPlan:
        """Plan one target tensor.

        Raises:
            GrowthError: the axis table has no line for it.
            CheckpointError: the source lacks the tensor that it comes from, or has it in an unexpected shape.
        """
        line = line_of(self.family, name)
        layer = layer_of(line, name)
        below = None if layer is None else self.layers[layer]
        copied = in_expert(line, in_layer(line, name, below), self._source_expert(line, name))
        source = self.reader.info(find_source_tensor(self.family, self.reader, copied, tied=self.tied))
        rows, columns = self._grown(line, shape)
        self._check_shape(source, rows, columns, transposed=line.transposed)
        reads = columns if line.reads is not None else None
        repeats = layer in self.repeated
        expert = expert_of(line, name)
        return TensorPlan(
            target=TensorInfo(name=name, shape=shape, dtype=source.dtype),
            source=source.name,
            reader=self.reader_number,
            rows=rows,
            columns=columns,
            contracts=reads is not None,
            share="symmetric" if reads is None else self._share(rows, reads),
            largest_share=self.growth.largest_share,
            snr_db=self.growth.snr_db if reads is not None and not line.is_head and _has_copies(reads) else None,
            above=self._above(line, name, below, rows),
            repeats=repeats,
            zeroed=repeats and self.growth.new_layers == "identity" and ends_branch(self.family.table, line),
            gradient_share=1.0 if expert is None else float(self.axes["experts"].read[expert]),
            new_expert=expert is not None and bool(self.axes["experts"].copy_number[expert]),
            transposed=line.transposed,
            offset=line.offset,
        )

    def _source_expert(self, line: Parameter, name: str) -> int | None:
        expert = expert_of(line, name)
        return None if expert is None else int(self.axes["experts"].index[expert])

    def _grown(self, line: Parameter, shape: tuple[int, ...]) -> tuple[AxisMap, AxisMap | None]:
        dims = [*line.writes, *([line.reads] if line.reads else [])]
        upright = shape[::-1] if line.transposed else shape
        rows, *columns = (self._map_of(axis, size) for axis, size in zip(dims, upright, strict=True))
        if line.normalises is not None:
            rows = maps.between(maps.axis_of(line.normalises, self.seen or self.axes), rows)
        return rows, columns[0] if columns else None

    def _map_of(self, axis: Axis, size: int) -> AxisMap:
        return maps.tile(size, 1) if axis in NEVER_GROWN else maps.axis_of(axis, self.axes)

    def _check_shape(self, source: TensorInfo, rows: AxisMap, columns: AxisMap | None, *, transposed: bool) -> None:
        expected = tuple(axis_map.source_length for axis_map in (rows, columns) if axis_map is not None)
        expected = expected[::-1] if transposed else expected
        if source.shape != expected:
            raise CheckpointError(
                f"{self.reader.directory}: {source.name} has shape {source.shape}, but its config.json says "
                f"{expected}. The two do not belong together; fetch the checkpoint again."
            )

    def _share(self, rows: AxisMap, columns: AxisMap) -> str:
        share = self.growth.share
        if splits_diagonally(rows, columns, share) or splits_unevenly(columns, share):
            return share
        return share if share == "rms" and _has_copies(columns) else "symmetric"

    def _above(self, line: Parameter, name: str, below: int | None, rows: AxisMap) -> str | None:
        """Return the tensor of the layer above that new outputs come from; None for the last layer, and for norms."""
        last = below is None or below + 1 > max(self.layers)
        if not self.growth.next_layer or last or rows.copies == 1 or line.normalises or line.writes[0] == _NORMED:
            return None
        assert below is not None
        return find_source_tensor(self.family, self.reader, in_layer(line, name, below + 1), tied=self.tied)


def _has_copies(columns: AxisMap) -> bool:
    return bool((columns.counts > 1).any())


def find_source_tensor(family: Family, reader: WeightReader, name: str, *, tied: bool) -> str:
    """Return the source's name for a tensor: the same, one without the stock model's prefix, or a tied head's table.

    Args:
        family: Family of the source.
        reader: Reader of the source.
        name: Name of the tensor in axis tables.
        tied: Whether the source's configuration ties its head to the embedding table.

    Raises:
        CheckpointError: the source has no such tensor.
    """
    names = [name, family.renamed.get(name, name), name.partition(".")[2]]
    line = find_parameter(family.table, name)
    if tied and line is not None and line.is_head:
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
