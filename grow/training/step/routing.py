"""Training of mixtures of experts: losses that keep every expert in use, precision, and what is seen of the routing.

    L_B = N sum_i f_i P_i      f_i share of the k T assignments that went to expert i, P_i mean over t of softmax(z_t)_i
    L_z = mean_t (logsumexp z_t)^2
    L   = L_CE + experts.balance L_B + experts.z L_z

Both are taken for each layer, then averaged over layers: L_B is 1 for even routing, N / k for all tokens on the same k
experts. The shares f have no gradient. With `balance_over=step` they are those of the step's micro-batches so far, over
all ranks (arXiv 2501.11873), by one all-reduce of layers x N counts for each micro-batch. Transformers' own loss sums
over k and pools the layers before it multiplies, so that layers which collapse on different experts look even: it is
not used.

Sources: Fedus et al., Switch Transformers (arXiv 2101.03961), equation 4; Zoph et al., ST-MoE (arXiv 2202.08906),
equation 5.

N experts, k of them active, T tokens, z the router's logits (T, N).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from grow.common import metric_names as names
from grow.families.registry import family_of
from grow.families.table import find_parameter
from grow.training.settings import ExpertsSettings
from grow.training.step.objective import product_dtype

IMPLEMENTATION = "grow"
"""Name of `experts_in_product_dtype` in Transformers' registry of expert functions."""


def routers_of(model: PreTrainedModel) -> list[nn.Module]:
    """Return the routers of a mixture, layer by layer; none of a dense model."""
    family = family_of(model.config.model_type)
    found = []
    for name, parameter in model.named_parameters():
        stored = next(iter(family.unpacked(family.stored_name(name), tuple(parameter.shape))))
        line = find_parameter(family.table, stored)
        if line is not None and (("experts",),) in line.writes:
            found.append(model.get_submodule(name.rpartition(".")[0]))
    return found


def active_experts(router: nn.Module) -> int:
    """Return how many experts a router chooses for each token, k."""
    active: Any = router.top_k
    return int(active)


def prepare_experts(model: PreTrainedModel, settings: ExpertsSettings) -> None:
    """Make a mixture multiply its experts in the products' dtype and its routers in float32; leave a dense model alone.

    With float32 weights and without autocast both compute the stock class's bits.
    """
    routers = routers_of(model)
    if not routers:
        return
    for router in routers:
        _compute_in_float32(router)
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, experts_in_product_dtype)
    model.config._experts_implementation = IMPLEMENTATION
    model.config.router_aux_loss_coef = settings.balance / active_experts(routers[0])  # the stock loss sums over k


def experts_in_product_dtype(experts: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Compute the stock module's grouped products in autocast's dtype, which they do not follow by themselves."""
    dtype = product_dtype(hidden)
    weights = dict(experts.named_parameters())
    if all(weight.dtype == dtype for weight in weights.values()):
        return grouped_mm_experts_forward(experts, hidden, top_k_index, top_k_weights)
    narrow = {name: weight.to(dtype) for name, weight in weights.items()}
    found: Tensor = torch.func.functional_call(experts, narrow, (hidden, top_k_index, top_k_weights))
    return found


def _compute_in_float32(router: nn.Module) -> None:
    """Make a router's logits and softmax float32 whatever the precision of the run."""
    stock = router.forward

    def forward(hidden: Tensor) -> Any:
        with torch.autocast(hidden.device.type, enabled=False):
            weight = router.get_parameter("weight")
            if weight.dtype in (torch.float32, torch.float64):
                return stock(hidden.to(weight.dtype))
            return torch.func.functional_call(router, {"weight": weight.float()}, (hidden,))

    router.forward = forward


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingLoss:
    """Losses of the routers for one micro-batch, scalars of shape ()."""

    weighted: Tensor
    """experts.balance L_B + experts.z L_z, with its gradient."""
    balance: Tensor
    z: Tensor


def routing_losses(logits: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return L_B and L_z, means over layers.

    Args:
        logits: Logits of the routers, (layers, T, N).
        shares: Share of the assignments that went to each expert, f, (layers, N).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    probabilities = torch.softmax(logits, -1).mean(1)  # (layers, N)
    balance = logits.shape[-1] * (shares.to(logits.dtype) * probabilities).sum(-1).mean()
    return balance, torch.logsumexp(logits, -1).square().mean()


def assignments(logits: Tensor, active: int) -> Tensor:
    """Count the tokens that went to each expert, float32, (layers, N).

    Args:
        logits: Logits of the routers, (layers, T, N).
        active: Experts of a token, k.
    """
    chosen = torch.softmax(logits.float(), -1).topk(active, -1).indices  # as the stock routers choose
    counts = torch.zeros(logits.shape[0], logits.shape[-1], device=logits.device)
    return counts.scatter_add_(1, chosen.flatten(1), torch.ones_like(chosen, dtype=counts.dtype).flatten(1))


@dataclass(kw_only=True, slots=True)
class Routing:
    """Losses of a mixture's routers over a step, and the rows that say how even the routing is."""

    settings: ExpertsSettings
    active: int
    """Experts of a token, k."""
    _step: int = -1
    _counts: Tensor | None = None
    """Assignments of the step so far: of all ranks, (layers, N)."""
    _since_row: Tensor | None = None
    """Assignments since the last row."""
    _losses: list[Tensor] = field(default_factory=list)
    _entropies: list[Tensor] = field(default_factory=list)

    def loss(self, router_logits: Sequence[Tensor], step: int) -> RoutingLoss:
        """Compute the losses of one micro-batch, and keep what the rows need.

        Args:
            router_logits: Logits of each layer's router, (T, N).
            step: Step under way, which tells when the counts begin anew.
        """
        logits = torch.stack(tuple(router_logits))
        own = assignments(logits.detach(), self.active)
        everywhere = _summed(own) if self.settings.balance_over == "step" else own
        if self._counts is None or step != self._step or self.settings.balance_over == "micro_batch":
            self._step, self._counts = step, everywhere
        else:
            self._counts = self._counts + everywhere
        self._since_row = everywhere if self._since_row is None else self._since_row + everywhere
        balance, z = routing_losses(logits, self._counts / self._counts.sum(-1, keepdim=True))
        self._losses.append(torch.stack((balance.detach(), z.detach())))
        self._entropies.append(_entropy(logits.detach()))
        weighted = self.settings.balance * balance + self.settings.z * z
        return RoutingLoss(weighted=weighted, balance=balance.detach(), z=z.detach())

    def row(self) -> dict[str, float]:
        """Return the columns since the last call, over all ranks; none where nothing was routed."""
        if self._since_row is None:
            return {}
        counts = self._since_row if self.settings.balance_over == "step" else _summed(self._since_row)
        load = counts.shape[-1] * counts / counts.sum(-1, keepdim=True)  # N f, (layers, N)
        means = _mean(torch.cat((torch.stack(self._losses).mean(0), torch.stack(self._entropies).mean()[None])))
        balance, z, entropy = means.tolist()
        dead, most, least = int((counts == 0).sum()), float(load.max()), float(load.min())
        self._since_row = None
        self._losses.clear()
        self._entropies.clear()
        return {
            names.EXPERTS_BALANCE_LOSS: balance,
            names.EXPERTS_Z_LOSS: z,
            names.EXPERTS_LOAD_MAX: most,
            names.EXPERTS_LOAD_MIN: least,
            names.EXPERTS_DEAD: dead,
            names.EXPERTS_ROUTER_ENTROPY: entropy,
        }


def routing_of(model: PreTrainedModel, settings: ExpertsSettings) -> Routing | None:
    """Return what watches and balances a mixture's routers; None for a dense model."""
    routers = routers_of(model)
    return Routing(settings=settings, active=active_experts(routers[0])) if routers else None


def _entropy(logits: Tensor) -> Tensor:
    """Return the mean entropy of the routers' choices over log N, from 0 for one expert to 1 for all alike."""
    log_probabilities = torch.log_softmax(logits.float(), -1)
    return -(log_probabilities.exp() * log_probabilities).sum(-1).mean() / math.log(logits.shape[-1])


def _summed(counts: Tensor) -> Tensor:
    """Return the sum over all ranks."""
    if dist.is_initialized():
        counts = counts.clone()
        dist.all_reduce(counts)
    return counts


def _mean(values: Tensor) -> Tensor:
    """Return the mean over all ranks."""
    return _summed(values) / (dist.get_world_size() if dist.is_initialized() else 1)
