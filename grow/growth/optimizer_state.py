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

Sources: whole copies, Shen et al. 2022, arXiv 2203.06211; asymmetric reset, SPARKLING, arXiv 2602.02472, section 4; the
rule for any map is derived.
Deviations: noise, uneven shares and units of the layer above change gradients; `exact` is then the state of the growth
without them. So does a norm over heads whose head_dim grows under rotary positions. A table that was both embedding and
head gives its moments to both when it is untied.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from grow.common.errors import ConfigError
from grow.growth.plan import GrowthPlan, TensorPlan

POLICIES = ("exact", "asymmetric", "reset")
_POWERS = {"exp_avg": 1, "exp_avg_sq": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamFactors:
    """What the settings of AdamW are multiplied with, each broadcastable to the grown weight."""

    lr: Tensor
    weight_decay: Tensor
    eps: Tensor


def grow_adam_state(
    plan: GrowthPlan, read: Callable[[str], Tensor], policy: str, renamed: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The optimizer state of a grown model, tensor by tensor.

    Args:
        plan: of the growth of the weights.
        read: gives the source's state by name: PARAMETER/exp_avg and PARAMETER/exp_avg_sq, whole or flat, and
            PARAMETER/step, a scalar. One tensor is asked for at a time.
        policy: `exact`, `asymmetric` or `reset`; `reset` reads nothing.
        renamed: checkpoint name -> name in the stock module, where the two differ; names of both sides follow it.

    Yields:
        PARAMETER/exp_avg, PARAMETER/exp_avg_sq in the grown shape and PARAMETER/step, in the order of the plan.

    Raises:
        ConfigError: there is no such policy, or the plan joins sources or makes experts.
    """
    if policy not in POLICIES:
        raise ConfigError(f"optimizer state {policy!r}: expected one of {', '.join(POLICIES)}.")
    names = renamed or {}
    for tensor in plan.tensors:
        if not isinstance(tensor, TensorPlan):
            raise ConfigError(
                "Adam's state grows from one source within its family; a model joined from several sources or of new "
                "experts starts with a new optimizer."
            )
        target, source = (names.get(name, name) for name in (tensor.target.name, tensor.source))
        fresh = policy == "reset" or (policy == "asymmetric" and tensor.repeats)
        for key, power in _POWERS.items():
            if fresh:
                yield f"{target}/{key}", torch.zeros(tensor.target.shape)
            else:
                moment = grow_moment(tensor, read(f"{source}/{key}"), power)
                yield f"{target}/{key}", only_old(tensor, moment) if policy == "asymmetric" else moment
        yield f"{target}/step", torch.tensor(0.0) if fresh else read(f"{source}/step").clone()


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
    rows = tensor.rows.read.masked_fill(tensor.rows.filler, 0.0)
    if tensor.columns is None:
        return rows, None
    columns = tensor.columns.expand if tensor.contracts else tensor.columns.read
    return rows, columns.masked_fill(tensor.columns.filler, 0.0)
