"""Grows Adam's state with the model: gradients grow by the dual map, second moments by its squares.

    x' = E x,  W' = E_out W R_in      =>      dL/dW' = R_out^T (dL/dW) E_in^T

    exact        m' = R_out^T m E_in^T,   v' = the same with squared gains,   step' = step
    asymmetric   as exact for the first copy of every unit; zeros for new units, step 0 for new layers
    reset        zeros, step 0

Invariant: growing and k steps of AdamW commute under `exact`, if also, elementwise (`adam_factors`),

    lr' = lr E_out R_in,   weight_decay' = weight_decay / (E_out R_in),   eps' = eps R_out E_in

For n whole copies these are lr / n_in, n_in weight_decay and eps / n_out: the rule of muP for a fan-in. The grown model
then follows the trajectory of the small one and uses no new capacity; that is what the other policies are for, and
noise and unequal shares too. The norm of the gradient is not invariant (a matrix's square scales by n_in / n_out), so
clipping acts differently. Zero moments under an old step counter make the first update (1 - beta1) / sqrt(1 - beta2)
times the rate: 3.2 times at beta2 = 0.999. One counter serves a whole tensor, so a tensor of old and new units should
warm its rate up again.

Experts: a router weighs their outputs, so each of n copies of an expert has 1/n of its gradient, and an expert made
from a dense block has the block's gradient over the number of experts, if the router is uniform. A drawn router is
not even-handed for each token: then only the sum of the experts' gradients is the block's, and steps do not commute.
Routers and redrawn units are new.
Joined sources: each has its own gradient times its weight, but of the loss of their mean; the blocks between two
sources have a gradient that neither has seen. So `exact` is refused there, and `asymmetric` starts those blocks from
zero. What experts of several sources share is averaged, at a point where no source has had a gradient: refused too.

Sources: whole copies, Shen et al. 2022, arXiv 2203.06211; asymmetric reset, SPARKLING, arXiv 2602.02472, section 4; the
rule for any map is derived.
Deviations: noise, uneven shares and units of the layer above change gradients; `exact` is then the state of the growth
without them. The same holds for a norm over heads whose head_dim grows under rotary positions. A table that was both
embedding and head gives its moments to both when it is untied.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grow.common.checks import one_of
from grow.common.errors import ConfigError
from grow.growth.made_tensors import (
    ExpertTensor,
    GrowthPlan,
    JoinedTensor,
    MadeTensor,
    ReadTensor,
    RouterTensor,
    TensorPart,
    TensorPlan,
)
from grow.growth.settings import CHOICES
from grow.growth.values import redrawn_units

_POWERS = {"exp_avg": 1, "exp_avg_sq": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamFactors:
    """Factors on the settings of AdamW, each of which broadcasts to the grown weight."""

    lr: Tensor
    weight_decay: Tensor
    eps: Tensor


def grow_adam_state(
    plan: GrowthPlan,
    reads: Sequence[ReadTensor],
    policy: str,
    renamed: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Iterator[tuple[str, Tensor]]:
    """Grow the optimizer state of a model, one tensor at a time.

    Args:
        plan: Plan by which the weights were grown.
        reads: Readers of the sources' states by name, one for each source: PARAMETER/exp_avg and PARAMETER/exp_avg_sq,
            whole or flat, and PARAMETER/step, a scalar.
        policy: `exact`, `asymmetric` or `reset`; `reset` reads nothing.
        renamed: Checkpoint name -> name in the stock module, where the two differ; both models' names follow it.
        seed: Seed of the growth, which decided the redrawn units.

    Yields:
        PARAMETER/exp_avg, PARAMETER/exp_avg_sq in the grown shape and PARAMETER/step, in the order of the plan. A
        tensor made from several sources takes the smallest of their steps.

    Raises:
        ConfigError: there is no such policy, or this plan has no rule for it.
    """
    one_of("growth.optimizer_state", policy, CHOICES["optimizer_state"])
    _refuse_undefined(plan, policy)
    names = renamed or {}
    for tensor in plan.tensors:
        target = names.get(tensor.target.name, tensor.target.name)
        parts = [] if policy == "reset" else [part for part in _parts(tensor) if not _is_new(part.tensor, policy)]
        own = [(reads[part.tensor.reader], names.get(part.tensor.source, part.tensor.source)) for part in parts]
        for key, power in _POWERS.items():
            moments = torch.zeros(tensor.target.shape)
            for part, (read, source) in zip(parts, own, strict=True):
                grown = grow_moment(part.tensor, read(f"{source}/{key}"), power)
                moments = _with_part(moments, part, only_old(part.tensor, grown) if policy == "asymmetric" else grown)
            if isinstance(tensor, ExpertTensor):
                _clear_redrawn(tensor, moments, seed)
            yield f"{target}/{key}", moments
        yield f"{target}/step", min((read(f"{source}/step").clone() for read, source in own), default=torch.tensor(0.0))


def _refuse_undefined(plan: GrowthPlan, policy: str) -> None:
    """Refuse a policy that a plan of several sources has no rule for."""
    joined = [tensor for tensor in plan.tensors if isinstance(tensor, JoinedTensor)]
    if policy == "reset" or not joined:
        return
    for tensor in joined:
        if len({(part.row, part.column) for part in tensor.parts}) < len(tensor.parts):
            raise ConfigError(
                f"growth.optimizer_state={policy}: {tensor.target.name} is the mean of {len(tensor.parts)} sources, a "
                "point where none of them has had a gradient. Set growth.optimizer_state=reset."
            )
    if policy == "exact":
        raise ConfigError(
            "growth.optimizer_state=exact: a model joined from several sources has the gradients of their mean's loss, "
            "between the sources too, and none of them has seen those. Set growth.optimizer_state=asymmetric, which "
            "gives each source's weights its own moments and what is between them zeros, or reset."
        )


def _parts(tensor: MadeTensor) -> Sequence[TensorPart]:
    """Return what a tensor takes from its sources, and where it lies."""
    if isinstance(tensor, RouterTensor):
        return ()
    if isinstance(tensor, JoinedTensor):
        return tensor.parts
    return (TensorPart(tensor=tensor.tensor if isinstance(tensor, ExpertTensor) else tensor, row=0, column=0),)


def _is_new(tensor: TensorPlan, policy: str) -> bool:
    return policy == "asymmetric" and (tensor.repeats or tensor.new_expert)


def _with_part(moments: Tensor, part: TensorPart, grown: Tensor) -> Tensor:
    """Return a tensor's moments with those of one part where the part lies; one that fills the tensor replaces them."""
    if grown.shape == moments.shape:
        return grown
    moments = moments.to(grown)
    last = slice(part.column, part.column + grown.shape[-1]) if grown.dim() == 2 else slice(None)
    moments[part.row : part.row + len(grown)][..., last] = grown
    return moments


def _clear_redrawn(tensor: ExpertTensor, moments: Tensor, seed: int) -> None:
    """Set the moments of redrawn hidden units to zero, in place."""
    units = moments if tensor.units_are_rows else moments.T
    units[redrawn_units(tensor.units, len(units), tensor.redrawn, seed)] = 0


def grow_moment(tensor: TensorPlan, moment: Tensor, power: int) -> Tensor:
    """Grow a moment of the source's weight by the dual map.

    Args:
        tensor: How the weight grows.
        moment: Moment in the source's shape, or flat.
        power: 1 for the first moment, 2 for the second.

    Returns:
        The moment in the grown weight's shape, in its own dtype.
    """
    rows, columns = _duals(tensor)
    if columns is None:
        return moment.flatten()[tensor.rows.index] * rows.to(moment) ** power
    assert tensor.columns is not None
    lengths = tensor.rows.source_length, tensor.columns.source_length
    whole = moment.view(lengths[::-1]).T if tensor.transposed else moment.view(lengths)
    grown = whole.index_select(0, tensor.rows.index).index_select(1, tensor.columns.index)
    return _as_stored(tensor, grown.mul_(rows.to(moment)[:, None] ** power).mul_(columns.to(moment) ** power))


def only_old(tensor: TensorPlan, moment: Tensor) -> Tensor:
    """Return a grown moment with zeros for new units: only elements between two first copies keep their value."""
    rows = (tensor.rows.copy_number == 0) & ~tensor.rows.filler
    if tensor.columns is None:
        return moment * rows
    columns = (tensor.columns.copy_number == 0) & ~tensor.columns.filler
    return moment * _as_stored(tensor, rows[:, None] & columns)


def adam_factors(tensor: TensorPlan) -> AdamFactors:
    """Return the factors that make AdamW on the grown weight follow AdamW on the source's, element by element."""
    rows, columns = _duals(tensor)
    written = tensor.rows.expand
    if columns is not None:
        rows = _as_stored(tensor, rows[:, None] * columns)
        written = _as_stored(tensor, written[:, None] * tensor.column_gain)
    unmoved = written == 0  # such elements stay zero, so they need no decay
    decay = torch.where(unmoved, 0.0, 1 / written)
    eps = torch.where(rows == 0, 1.0, rows)  # where no gradient arrives, eps stays above zero and divides a zero
    return AdamFactors(lr=written, weight_decay=decay, eps=eps)


def _as_stored(tensor: TensorPlan, matrix: Tensor) -> Tensor:
    return matrix.T if tensor.transposed else matrix


def _duals(tensor: TensorPlan) -> tuple[Tensor, Tensor | None]:
    """Return the gains of the gradient's rows and columns; that of a filler is zero, because fillers are new."""
    rows = tensor.rows.read.masked_fill(tensor.rows.filler, 0.0) * tensor.gradient_share
    if tensor.columns is None:
        return rows, None
    columns = tensor.columns.expand if tensor.contracts else tensor.columns.read
    return rows, columns.masked_fill(tensor.columns.filler, 0.0)
