"""The elements of every parameter that this rank saves and restores in float32, under any strategy.

    plain        all elements
    ddp          every rank keeps all elements, and saves an equal share of every parameter
    zero1, 2     a range of the group's flat masters         (DeepSpeed's _hp_mapping of a parameter)
    zero3        the rank's equal share of each parameter    (DeepSpeed's safe_get_local_*)
    fsdp2        the rank's rows of each parameter           (a DTensor's local part)

A fragment is a flat view: writing to it changes the values that the optimizer updates.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.optim import Optimizer

from grow.distributed.processes import is_first

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fragment:
    """Elements [start, start + n) of a flattened parameter, and the optimizer's state of the same elements."""

    name: str
    start: int
    values: Tensor  # (n,) float32
    moments: dict[str, Tensor]  # each (n,) float32; empty for a frozen parameter

    @property
    def stop(self) -> int:
        """The element after the last one."""
        return self.start + self.values.numel()


def owned_fragments(model: nn.Module, optimizer: Any, *, every_rank: bool = False) -> list[Fragment]:
    """Return this rank's fragments, in the model's order; together the ranks' fragments cover every element once.

    Args:
        model: Model whose `named_parameters` name the fragments.
        optimizer: Optimizer as Lightning holds it, DeepSpeed's or torch's; its state is created where it has none yet.
        every_rank: Whether a rank that keeps a whole parameter gets all of it instead of a share. True for restoring,
            where every rank fills what it keeps; False for saving.
    """
    base = base_optimizer(optimizer)
    _create_state(base, _flat_masters(optimizer, base))
    part, parts = (0, 1) if every_rank or not dist.is_initialized() else (dist.get_rank(), dist.get_world_size())
    return [fragment for fragment in _fragments(model, optimizer, base, part, parts) if fragment.values.numel()]


def base_optimizer(optimizer: Any) -> Optimizer:
    """Return the torch optimizer inside DeepSpeed's or Lightning's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def kept_in_shards(model: nn.Module) -> str | None:
    """Return zero3 or fsdp2 where a rank holds only a part of the weights it computes with, else None."""
    parameter = next(model.parameters())
    if hasattr(parameter, "ds_id"):
        return "zero3"
    return "fsdp2" if isinstance(parameter.detach(), DTensor) else None


def full_weights(model: nn.Module) -> dict[str, Tensor] | None:
    """Return every parameter in float32 in rank 0's host memory, None on other ranks; all ranks must call this."""
    weights = {}
    for name, parameter in model.named_parameters():
        whole = _whole(parameter)
        if is_first():
            weights[name] = whole.to("cpu", copy=True)
    return weights if is_first() else None


def _flat_masters(optimizer: Any, base: Optimizer) -> list[Tensor]:
    """Return the tensors that the optimizer updates; ZeRO-3 lists its masters in the groups only during an update."""
    in_groups = [parameter for group in base.param_groups for parameter in group["params"]]
    return getattr(optimizer, "fp32_partitioned_groups_flat", in_groups)


def _create_state(optimizer: Optimizer, masters: list[Tensor]) -> None:
    """Create the state of AdamW that its first step would create, where it is missing."""
    for master in masters:
        state = optimizer.state[master]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=master.device)
            for moment in MOMENTS:
                state[moment] = torch.zeros_like(master, memory_format=torch.preserve_format)


def _fragments(model: nn.Module, optimizer: Any, base: Optimizer, part: int, parts: int) -> Iterator[Fragment]:
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id"):
            yield _zero3_fragment(name, parameter)
        elif hasattr(parameter, "_hp_mapping"):
            if parameter._hp_mapping is not None:
                yield _zero2_fragment(name, parameter._hp_mapping, optimizer, base)
        elif isinstance(parameter.detach(), DTensor):
            yield _fsdp_fragment(name, parameter, base)
        else:
            yield _plain_fragment(name, parameter, base, part, parts)


def _plain_fragment(name: str, parameter: Tensor, base: Optimizer, part: int, parts: int) -> Fragment:
    start, stop = (parameter.numel() * edge // parts for edge in (part, part + 1))
    state = base.state.get(parameter, {})  # frozen parameters have none
    return Fragment(
        name=name,
        start=start,
        values=parameter.detach().view(-1)[start:stop],
        moments={moment: tensor.view(-1)[start:stop] for moment, tensor in state.items() if moment in MOMENTS},
    )


def _zero2_fragment(name: str, mapping: Any, optimizer: Any, base: Optimizer) -> Fragment:
    place = mapping.get_hp_fragment_address()
    state = base.state[optimizer.single_partition_of_fp32_groups[mapping.param_group_index]]
    return Fragment(
        name=name,
        start=mapping.lp_fragment_address.start,
        values=mapping.hp_fragment.detach(),
        moments={moment: state[moment].narrow(0, place.start, place.numel) for moment in MOMENTS},
    )


def _zero3_fragment(name: str, parameter: Any) -> Fragment:
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

    share = parameter.partition_numel()  # the last ranks' shares may be padded, or padding only
    start = min(dist.get_rank() * share, parameter.ds_numel)
    size = min(share, parameter.ds_numel - start)
    return Fragment(
        name=name,
        start=start,
        values=safe_get_local_fp32_param(parameter).detach()[:size],
        moments={moment: safe_get_local_optimizer_state(parameter, moment)[:size] for moment in MOMENTS},
    )


def _fsdp_fragment(name: str, parameter: Any, base: Optimizer) -> Fragment:
    _, offset = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    state = base.state[parameter]
    return Fragment(
        name=name,
        start=offset[0] * prod(parameter.shape[1:]) if parameter.dim() else 0,
        values=parameter.detach().to_local().view(-1),
        moments={moment: state[moment].to_local().view(-1) for moment in MOMENTS},
    )


def _whole(parameter: Any) -> Tensor:
    value = parameter.detach()
    if isinstance(value, DTensor):
        return value.full_tensor()
    kept_whole = not hasattr(parameter, "ds_id") and value.dtype == torch.float32
    if kept_whole or not (hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")):
        return value
    from deepspeed.utils import safe_get_full_fp32_param

    return safe_get_full_fp32_param(parameter)
