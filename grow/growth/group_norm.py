"""Norms of a joined model that see one source at a time, annealed to the stock norm over all sources.

    x = [x_1 | x_2]      group(x) = [norm(x_1) | norm(x_2)]      joint(x) = norm(x)
    y = ((1 - a) group(x) + a joint(x)) * gain + bias            a from 0 to 1 over a few thousand steps

Invariant: with a = 0 a model joined by `grow.growth.joined` computes sum_m w_m logits_m exactly; with a = 1 it is the
stock model. No stock class has these norms, so a model with them refuses to be saved before a = 1.

Source: derived; the masked statistics of MSG, arXiv 2305.02869, are the same anneal for new units.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grow.common.errors import GrowthError
from grow.families.registry import family_of
from grow.families.table import Axis, find_parameter
from grow.growth.streamed import streamed_model

_STREAM: Axis = (("embed",),)
_SIZE_OF = {"embed": "embed", "raw_heads": "heads", "raw_kv_heads": "kv_heads"}


class GroupNorm(nn.Module):
    """A stock norm applied to the widths of each source on their own, mixed with the norm over all."""

    def __init__(self, stock: nn.Module, widths: Sequence[int], *, centred: bool, offset: float = 0.0) -> None:
        """Take over a stock norm's parameters and eps.

        Args:
            stock: LayerNorm or RMSNorm of transformers or torch.
            widths: Number of elements of each source, in order.
            centred: Whether the norm subtracts the mean.
            offset: What the stock norm adds to its stored gain.
        """
        super().__init__()
        self.weight = getattr(stock, "weight", None)
        self.bias = getattr(stock, "bias", None)
        self.eps: float = getattr(stock, "variance_epsilon", getattr(stock, "eps", 1e-5))  # OLMo's is a constant
        self.widths, self.centred, self.offset = list(widths), centred, offset
        self.joint = 0.0

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise (..., sum of widths); the result has the same shape."""
        normed = torch.cat([self._norm(part) for part in hidden.split(self.widths, dim=-1)], dim=-1)
        if self.joint:
            normed = torch.lerp(normed, self._norm(hidden), self.joint)
        normed = normed if self.weight is None else normed * (self.weight + self.offset)
        return normed if self.bias is None else normed + self.bias

    def _norm(self, part: Tensor) -> Tensor:
        part = part - part.mean(-1, keepdim=True) if self.centred else part
        return part * torch.rsqrt(part.square().mean(-1, keepdim=True) + self.eps)


def use_group_norms(model: PreTrainedModel, sources: Sequence[Any]) -> None:
    """Give a joined model norms that see one source at a time, in place.

    Args:
        model: A stock model joined from `sources` side by side.
        sources: Configurations of the sources, in the order in which they were joined.
    """
    family = family_of(model.config.model_type)
    sizes = [family.sizes(source) for source in sources]
    for name, norm in list(_norms(model)):
        line = find_parameter(family.table, family.stored_name(f"{name}.weight"))
        axis = _STREAM if line is None or line.normalises is None else line.normalises
        if axis[0][0] not in _SIZE_OF:  # a norm inside each head sees one source at a time already
            continue
        inner = "head_dim" if len(axis) > 1 else None
        widths = [each[_SIZE_OF[axis[0][0]]] * (each[inner] if inner else 1) for each in sizes]
        parent, _, last = name.rpartition(".")
        offset = 0.0 if line is None else line.offset
        setattr(model.get_submodule(parent), last, GroupNorm(norm, widths, centred=family.centred, offset=offset))
    model.save_pretrained = _save_pretrained.__get__(model)  # type: ignore[method-assign]


def anneal_group_norms(model: nn.Module, joint: float) -> None:
    """Set the weight of the joint norm in every norm of a model, from 0 (exact) to 1 (stock)."""
    for module in model.modules():
        if isinstance(module, GroupNorm):
            module.joint = joint


def _save_pretrained(model: PreTrainedModel, *arguments: Any, **options: Any) -> None:
    """Save a model as its class does, but refuse while its norms are not the stock ones."""
    if any(isinstance(module, GroupNorm) and module.joint < 1 for module in model.modules()):
        raise GrowthError(
            "a model with one norm for each source cannot be a stock checkpoint. Anneal its norms to the joint one "
            "first (anneal_group_norms(model, 1.0)), or join with growth.balance=true and the stock norms."
        )
    type(model).save_pretrained(model, *arguments, **options)


def _norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if type(module).__name__.endswith("Norm"))


def stream_size(directory: Path, tokens: Tensor) -> float:
    """Measure the root mean square of a stored model's residual stream, as its norms see it.

    Args:
        directory: Directory of the model.
        tokens: (sequences, length + 1) int64 ids.

    Returns:
        The geometric mean over all norms and tokens.
    """
    model = streamed_model(directory, torch.float32)
    seen: list[Tensor] = []
    for _, norm in _norms(model):
        norm.register_forward_pre_hook(
            lambda module, inputs: _append_log_size(seen, inputs[0], model.config.hidden_size)
        )
    with torch.no_grad():
        model(tokens[:, :-1])
    return float(torch.cat(seen).mean().exp())


def _append_log_size(seen: list[Tensor], hidden: Tensor, width: int) -> None:
    """Append the logarithm of the root mean square of each token's stream; leave out what is not the stream."""
    if hidden.shape[-1] == width:
        seen.append(hidden.float().square().mean(-1).clamp(min=1e-12).log().flatten() / 2)
