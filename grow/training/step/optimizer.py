"""AdamW over parameter groups: the weight decay and the peak learning rate of every weight."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from grow.training.settings import OptimizerSettings


def build_optimizer(
    model: nn.Module,
    settings: OptimizerSettings,
    input_copies: Mapping[str, float],
    blocks: Mapping[str, int] | None = None,
) -> AdamW:
    """Build AdamW, fused where the device has a fused kernel.

    Args:
        model: Model whose parameters are trained.
        settings: Learning rate, betas, eps and weight decay.
        input_copies: Copies that a growth made of the inputs of a parameter, by name; 1 where it is not named.
        blocks: Number of the block of layers of each parameter that some steps do not train, by name.
    """
    groups = parameter_groups(model, settings, input_copies, blocks)
    devices = {parameter.device.type for parameter in model.parameters()}
    beta1, beta2 = settings.betas
    return AdamW(groups, betas=(beta1, beta2), eps=settings.eps, fused=devices <= {"cpu", "cuda"})


def parameter_groups(
    model: nn.Module,
    settings: OptimizerSettings,
    input_copies: Mapping[str, float],
    blocks: Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """Return one group for each combination of decay, number of input copies, and block; frozen weights are in none.

    Besides AdamW's keys, a group has `peak_lr`, its own peak learning rate, and `block`, 0 where every step trains it.

    With `divide_grown_lr`, a weight whose inputs a growth repeated n times learns at lr / n, the rate at which the
    copies together follow the small model's trajectory. Its weight decay is n * weight_decay, so that the product of
    the two, which AdamW applies, stays the same.
    """
    decayed = _decayed(model)
    members: dict[tuple[bool, float, int], list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():  # a tied head appears once, as the embedding
        copies = input_copies.get(name, 1) if settings.divide_grown_lr else 1
        if parameter.requires_grad:
            members[id(parameter) in decayed, copies, (blocks or {}).get(name, 0)].append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.lr / copies,
            "peak_lr": settings.lr / copies,
            "weight_decay": settings.weight_decay * copies if decay else 0.0,
            "block": block,
        }
        for (decay, copies, block), parameters in sorted(members.items(), key=lambda item: item[0], reverse=True)
    ]


def set_learning_rates(optimizer: Optimizer, multiplier: float) -> None:
    """Set every group's learning rate to this multiple of its own peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multiplier


def _decayed(model: nn.Module) -> set[int]:
    """Return the identities of the matrices with weight decay: of Linear layers, packed experts and routers.

    Biases, norm gains, embeddings and position tables have none; a tied head counts as an embedding.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return {id(parameter) for parameter in model.parameters() if parameter.dim() >= 2} - tables
