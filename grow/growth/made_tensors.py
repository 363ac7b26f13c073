"""What a plan says of each tensor of the target: which source tensors it is made from, and how their axes grow.

TensorPlan      E_out W R_in + N, from one source tensor
JoinedTensor    zeros, with the parts from several sources where they lie
RouterTensor    initialised, for no source has it
ExpertTensor    a TensorPlan, and what makes the expert differ from others: re-initialised units, noise
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

from torch import Tensor

from grow.families.tensor_file import TensorInfo
from grow.growth.maps import AxisMap

ReadTensor = Callable[[str], Tensor]
"""Reads a tensor of one model, or of its optimizer, by its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorPlan:
    """How one target tensor is made from one source tensor."""

    target: TensorInfo
    source: str
    reader: int = 0
    """Number of the source that it comes from, out of several."""
    rows: AxisMap
    columns: AxisMap | None
    """None for vectors."""
    contracts: bool
    """Whether the columns are read (a linear weight) or written (an embedding, a position table)."""
    share: str
    largest_share: float
    snr_db: float | None
    above: str | None
    """The same tensor of the layer above, where new outputs come from it."""
    repeats: bool
    """Whether its layer repeats a layer below it."""
    zeroed: bool
    """Whether it starts as zeros, so that its layer is the identity."""
    gradient_share: float = 1.0
    """Its gradient over the source's, gains of its axes left out. It is below 1 where copies of an expert share the
    router's probability, or joined sources share the logits."""
    new_expert: bool = False
    """Whether its expert repeats an expert before it."""
    transposed: bool = False
    """Whether it is stored with its inputs as rows: then target and source hold the transpose of what is planned."""
    offset: float = 0.0
    """What the model adds to the stored values before it multiplies with them."""

    @property
    def column_gain(self) -> Tensor:
        """(target columns,) float64: what the columns are multiplied with."""
        assert self.columns is not None
        return self.columns.read if self.contracts else self.columns.expand

    @property
    def input_copies(self) -> float:
        """How many copies its inputs have, on average; 1 where it reads no input."""
        return self.columns.copies if self.columns is not None and self.contracts else 1

    @property
    def output_copies(self) -> float:
        """How many copies its outputs have, on average."""
        written = self.rows.copies
        return written if self.contracts or self.columns is None else written * self.columns.copies

    def as_json(self) -> dict[str, object]:
        """Return its entry in growth.json."""
        return {
            "source": self.source,
            "shape": list(self.target.shape),
            "output_copies": self.output_copies,
            "input_copies": self.input_copies,
            "share": self.share,
            "snr_db": self.snr_db,
            "above": self.above,
            "zeroed": self.zeroed,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorPart:
    """A tensor of one source, and where it lies in a joined one."""

    tensor: TensorPlan
    row: int
    column: int


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinedTensor:
    """How one target tensor is made from several sources: zeros, and the parts where they lie."""

    target: TensorInfo
    parts: tuple[TensorPart, ...]
    input_copies: float = 1

    def as_json(self) -> dict[str, object]:
        """Return its entry in growth.json."""
        parts = [{"reader": part.tensor.reader, "row": part.row, "column": part.column} for part in self.parts]
        lines = [{**place, **part.tensor.as_json()} for place, part in zip(parts, self.parts, strict=True)]
        return {"shape": list(self.target.shape), "parts": lines}


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterTensor:
    """How a router's weight is made, which no source has: from a normal."""

    target: TensorInfo
    std: float
    repeats: int
    """How many experts in succession have the same row: the shards of one dense block."""
    input_copies: float = 1

    def as_json(self) -> dict[str, object]:
        """Return its entry in growth.json."""
        return {"shape": list(self.target.shape), "deviation": self.std, "repeats": self.repeats}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertTensor:
    """How a matrix of one expert is made: from a dense model's or part of it, with redrawn units and noise."""

    tensor: TensorPlan
    units: str
    """Name of the expert's hidden units; its three matrices redraw the same ones because they share the name."""
    units_are_rows: bool
    redrawn: float
    noise: float

    @property
    def target(self) -> TensorInfo:
        return self.tensor.target

    @property
    def input_copies(self) -> float:
        return self.tensor.input_copies

    def as_json(self) -> dict[str, object]:
        """Return its entry in growth.json."""
        own = {"reader": self.tensor.reader, "redrawn": self.redrawn, "noise": self.noise}
        return {**self.tensor.as_json(), **own}


MadeTensor = TensorPlan | JoinedTensor | RouterTensor | ExpertTensor


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowthPlan:
    """Every tensor that a growth will write, and whether it claims to keep the function."""

    tensors: Sequence[MadeTensor]
    factors: dict[str, float]
    """Size name -> target size over source size."""
    layers: list[int]
    """Source layer of each target layer."""
    reasons: tuple[str, ...] = field(default=())
    """Why the result computes another function than its source; empty where it claims to compute the same one."""

    @property
    def preserves(self) -> bool:
        """Whether the growth claims to keep the function."""
        return not self.reasons

    @property
    def bytes(self) -> int:
        """Bytes of all target tensors together."""
        return sum(tensor.target.bytes for tensor in self.tensors)

    @property
    def summary(self) -> str:
        """Number of tensors and parameters, and the factors, for people to read."""
        parameters = sum(prod(tensor.target.shape) for tensor in self.tensors)
        grown = ", ".join(f"{size} x{factor:g}" for size, factor in self.factors.items() if factor != 1)
        return f"{len(self.tensors)} tensors, {parameters:,} parameters, {grown or 'no size changed'}"
