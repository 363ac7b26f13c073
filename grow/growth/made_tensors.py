"""The plan of a growth: for every tensor of the target, which source tensor it comes from and how its axes grow."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from torch import Tensor

from grow.families.weights import TensorInfo
from grow.growth.maps import AxisMap


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorPlan:
    """How one target tensor is made."""

    target: TensorInfo
    source: str
    reader: int = 0
    """Which of several sources it comes from."""
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
    """Whether its layer repeats one below it."""
    zeroed: bool
    """Whether it starts as zeros, so that its layer is the identity."""
    gradient_share: float = 1.0
    """What its gradient is beside the source's, apart from its axes' gains: an expert's copies share its router's
    probability, joined sources share the logits."""
    new_expert: bool = False
    """Whether its expert repeats one before it."""

    @property
    def column_gain(self) -> Tensor:
        assert self.columns is not None
        return self.columns.read if self.contracts else self.columns.expand

    @property
    def input_copies(self) -> float:
        """How often the inputs of this weight are repeated, on average; 1 where it reads none."""
        return self.columns.copies if self.columns is not None and self.contracts else 1

    @property
    def output_copies(self) -> float:
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
    """How one target tensor is made of several sources: zeros, and the parts where they lie."""

    target: TensorInfo
    parts: tuple[TensorPart, ...]
    input_copies: float = 1

    def as_json(self) -> dict[str, object]:
        """One line of growth.json."""
        parts = [{"reader": part.tensor.reader, "row": part.row, "column": part.column} for part in self.parts]
        lines = [{**place, **part.tensor.as_json()} for place, part in zip(parts, self.parts, strict=True)]
        return {"shape": list(self.target.shape), "parts": lines}


@dataclass(frozen=True, kw_only=True, slots=True)
class RouterTensor:
    """A router's weight, which no source has: drawn."""

    target: TensorInfo
    deviation: float
    repeats: int
    """How many experts in a row, the shards of one block, have the same row."""
    input_copies: float = 1

    def as_json(self) -> dict[str, object]:
        """One line of growth.json."""
        return {"shape": list(self.target.shape), "deviation": self.deviation, "repeats": self.repeats}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertTensor:
    """A matrix of one expert: a dense model's, or part of it, and what makes the expert its own."""

    tensor: TensorPlan
    units: str
    """Name of the expert's hidden units: its three matrices draw alike by it."""
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
        """One line of growth.json."""
        own = {"reader": self.tensor.reader, "redrawn": self.redrawn, "noise": self.noise}
        return {**self.tensor.as_json(), **own}


MadeTensor = TensorPlan | JoinedTensor | RouterTensor | ExpertTensor


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowthPlan:
    """Everything that will be written."""

    tensors: Sequence[MadeTensor]
    factors: dict[str, float]
    layers: list[int]
    """Source layer of each target layer."""
    reasons: tuple[str, ...] = field(default=())
    """Why the result computes something else than its source; empty where it claims to compute the same."""

    @property
    def preserves(self) -> bool:
        """Whether the growth claims to keep the function."""
        return not self.reasons

    @property
    def bytes(self) -> int:
        return sum(tensor.target.bytes for tensor in self.tensors)

    @property
    def summary(self) -> str:
        """Tensors, parameters and factors, for people."""
        parameters = sum(prod(tensor.target.shape) for tensor in self.tensors)
        grown = ", ".join(f"{size} x{factor:g}" for size, factor in self.factors.items() if factor != 1)
        return f"{len(self.tensors)} tensors, {parameters:,} parameters, {grown or 'no size changed'}"
