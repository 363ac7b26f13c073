"""AdamW over parameter groups: which weights are decayed, and at which share of the peak learning rate each learns."""

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
    """AdamW, fused where the device has a fused kernel.

    Args:
        model: names its parameters as `input_copies` does.
        settings: rates and decay.
        input_copies: how often a growth repeated the inputs of a parameter; 1 where it is not named.
        blocks: number of the block of layers of a parameter that some steps leave out.
    """
    groups = parameter_groups(model, settings, input_copies, blocks)
    devices = {parameter.device.type for parameter in model.parameters()}
    return AdamW(groups, betas=tuple(settings.betas), eps=settings.eps, fused=devices <= {"cpu", "cuda"})


def parameter_groups(
    model: nn.Module,
    settings: OptimizerSettings,
    input_copies: Mapping[str, float],
    blocks: Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """One group for each combination of decayed or not, number of input copies, and block; frozen weights are in none.

    `peak_lr` is a group's own peak, `block` is 0 where every step trains it.

    With `divide_grown_lr`, a weight whose inputs were repeated n times learns at lr / n, the rate at which the copies
    together follow the small model's trajectory, and decays by n * weight_decay, so that the product stays.
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
    """Scale every group's own peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multiplier


def _decayed(model: nn.Module) -> set[int]:
    """Identities of the matrices that are decayed: weights of Linear layers.

    Biases, norm gains, embeddings and position tables are not; a tied head is an embedding.
    """
    return _weights_of(model, nn.Linear) - _weights_of(model, nn.Embedding)


def _weights_of(model: nn.Module, kind: type[nn.Module]) -> set[int]:
    return {id(module.weight) for module in model.modules() if isinstance(module, kind)}
