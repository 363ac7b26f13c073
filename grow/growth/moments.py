"""Adam's state of a grown model, from its source's: gradients grow by the dual map, second moments by its squares.

    x' = E x,  W' = E_out W R_in      =>      dL/dW' = R_out^T (dL/dW) E_in^T

    exact        m' = R_out^T m E_in^T,   v' = the same with squared gains,   step' = step
    asymmetric   as exact for the first copy of every unit; zeros for new units, step 0 for new layers
    reset        zeros, step 0

Invariant: growing and k steps of AdamW commute under `exact`, if also, elementwise (`adam_factors`),

    lr' = lr E_out R_in,   weight_decay' = weight_decay / (E_out R_in),   eps' = eps R_out E_in

which for n whole copies is lr / n_in, n_in weight_decay and eps / n_out: the rule of muP for a fan-in. Then the grown
model has the trajectory of the small one, and no new capacity: that is what the other policies, and all that tells
copies apart, are for. The norm of the gradient is not invariant (a matrix's square scales by n_in / n_out), so a clip
bites otherwise. Zero moments under an old step counter make the first update (1 - beta1) / sqrt(1 - beta2) of the rate:
3.2 times at beta2 = 0.999. One counter serves a whole tensor: one of old and new units wants its rate warmed up again.

Experts: a router weighs what they compute, so that n copies of an expert have 1/n of its gradient each, and an expert
made of a dense block that of the block over their number, if the router is even-handed. A drawn one is not to each
token: then only their sum is the block's gradient, and steps do not commute. Routers and redrawn units are new.
Joined sources: each has its own gradient times its weight, of a loss that is now that of the mean, and what is between
two of them has a gradient that neither has seen. So `exact` is refused there; `asymmetric` starts that from zero.
What experts of several sources share is averaged, at a point where no source has had a gradient: refused.

Sources: whole copies, Shen et al. 2022, arXiv 2203.06211; asymmetric reset, SPARKLING, arXiv 2602.02472, section 4; the
rule for any map is derived.
Deviations: noise, uneven shares and units of the layer above change gradients; `exact` is then the state of the growth
without them. So does a norm over heads whose head_dim grows under rotary positions. A table that was both embedding and
head gives its moments to both when it is untied.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grow.common.errors import ConfigError
from grow.growth.made_tensors import (
    ExpertTensor,
    GrowthPlan,
    JoinedTensor,
    MadeTensor,
    RouterTensor,
    TensorPart,
    TensorPlan,
)
from grow.growth.values import redrawn_units

POLICIES = ("exact", "asymmetric", "reset")
Read = Callable[[str], Tensor]
_POWERS = {"exp_avg": 1, "exp_avg_sq": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamFactors:
    """What the settings of AdamW are multiplied with, each broadcastable to the grown weight."""

    lr: Tensor
    weight_decay: Tensor
    eps: Tensor


def grow_adam_state(
    plan: GrowthPlan,
    reads: Sequence[Read],
    policy: str,
    renamed: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Iterator[tuple[str, Tensor]]:
    """The optimizer state of a grown model, tensor by tensor.

    Args:
        plan: of the growth of the weights.
        reads: one for each source, which gives its state by name: PARAMETER/exp_avg and PARAMETER/exp_avg_sq, whole or
            flat, and PARAMETER/step, a scalar. One tensor is asked for at a time.
        policy: `exact`, `asymmetric` or `reset`; `reset` reads nothing.
        renamed: checkpoint name -> name in the stock module, where the two differ; names of both sides follow it.
        seed: of the growth, which chose what it redrew.

    Yields:
        PARAMETER/exp_avg, PARAMETER/exp_avg_sq in the grown shape and PARAMETER/step, in the order of the plan. A
        tensor of several sources has the fewest steps of theirs.

    Raises:
        ConfigError: there is no such policy, or it has no meaning for the plan.
    """
    if policy not in POLICIES:
        raise ConfigError(f"optimizer state {policy!r}: expected one of {', '.join(POLICIES)}.")
    _check_has_meaning(plan, policy)
    names = renamed or {}
    for tensor in plan.tensors:
        target = names.get(tensor.target.name, tensor.target.name)
        parts = [] if policy == "reset" else [part for part in _parts(tensor) if not _is_new(part.tensor, policy)]
        own = [(reads[part.tensor.reader], names.get(part.tensor.source, part.tensor.source)) for part in parts]
        for key, power in _POWERS.items():
            moments = torch.zeros(tensor.target.shape)
            for part, (read, source) in zip(parts, own, strict=True):
                grown = grow_moment(part.tensor, read(f"{source}/{key}"), power)
                moments = _placed(moments, part, only_old(part.tensor, grown) if policy == "asymmetric" else grown)
            if isinstance(tensor, ExpertTensor):
                _clear_redrawn(tensor, moments, seed)
            yield f"{target}/{key}", moments
        yield f"{target}/step", min((read(f"{source}/step").clone() for read, source in own), default=torch.tensor(0.0))


def _check_has_meaning(plan: GrowthPlan, policy: str) -> None:
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
    """What a tensor has from its sources, and where."""
    if isinstance(tensor, RouterTensor):
        return ()
    if isinstance(tensor, JoinedTensor):
        return tensor.parts
    return (TensorPart(tensor=tensor.tensor if isinstance(tensor, ExpertTensor) else tensor, row=0, column=0),)


def _is_new(tensor: TensorPlan, policy: str) -> bool:
    return policy == "asymmetric" and (tensor.repeats or tensor.new_expert)


def _placed(moments: Tensor, part: TensorPart, grown: Tensor) -> Tensor:
    if grown.shape == moments.shape:
        return grown
    moments = moments.to(grown)
    last = slice(part.column, part.column + grown.shape[-1]) if grown.dim() == 2 else slice(None)
    moments[part.row : part.row + len(grown)][..., last] = grown
    return moments


def _clear_redrawn(tensor: ExpertTensor, moments: Tensor, seed: int) -> None:
    units = moments if tensor.units_are_rows else moments.T
    units[redrawn_units(tensor.units, len(units), tensor.redrawn, seed)] = 0


def grow_moment(tensor: TensorPlan, moment: Tensor, power: int) -> Tensor:
    """A moment of the source's weight as the dual map grows it.

    Args:
        tensor: how the weight grows.
        moment: of the source's shape, or flat.
        power: 1 for the first moment, 2 for the second.

    Returns:
        the grown weight's shape, in the moment's dtype.
    """
    rows, columns = _duals(tensor)
    if columns is None:
        return moment.flatten()[tensor.rows.index] * rows.to(moment) ** power
    assert tensor.columns is not None
    whole = moment.view(tensor.rows.source_length, tensor.columns.source_length)
    grown = whole.index_select(0, tensor.rows.index).index_select(1, tensor.columns.index)
    return grown.mul_(rows.to(moment)[:, None] ** power).mul_(columns.to(moment) ** power)


def only_old(tensor: TensorPlan, moment: Tensor) -> Tensor:
    """A grown moment with zeros for new units: for every element that is not between two first copies."""
    rows = (tensor.rows.copy_number == 0) & ~tensor.rows.filler
    if tensor.columns is None:
        return moment * rows
    columns = (tensor.columns.copy_number == 0) & ~tensor.columns.filler
    return moment * rows[:, None] * columns


def adam_factors(tensor: TensorPlan) -> AdamFactors:
    """What makes AdamW on the grown weight follow AdamW on the source's, element by element."""
    rows, columns = _duals(tensor)
    written = tensor.rows.expand
    if columns is not None:
        rows, written = rows[:, None] * columns, written[:, None] * tensor.column_gain
    unmoved = written == 0  # they stay zero; and what no gradient reaches keeps its eps, which then divides a zero
    decay = torch.where(unmoved, 0.0, 1 / written)
    return AdamFactors(lr=written, weight_decay=decay, eps=torch.where(rows == 0, 1.0, rows))


def _duals(tensor: TensorPlan) -> tuple[Tensor, Tensor | None]:
    """Gains of the gradient's rows and columns; a filler's is zero, for it is new."""
    rows = tensor.rows.read.masked_fill(tensor.rows.filler, 0.0) * tensor.gradient_share
    if tensor.columns is None:
        return rows, None
    columns = tensor.columns.expand if tensor.contracts else tensor.columns.read
    return rows, columns.masked_fill(tensor.columns.filler, 0.0)
