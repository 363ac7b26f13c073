"""Next-token cross-entropy from hidden states: chunk by chunk, its gradient formed in the forward pass.

    logits = h W^T,  loss = mean(logsumexp(logits) - logits[target]),  d loss / d logits = (softmax - onehot) / N

The gradient with respect to the logits needs nothing that the loss does not need, so each chunk of rows makes its
logits, its loss, its dh and its share of dW, and is forgotten: full logits never exist. The mean's 1/N and the
gradient that comes from above (1/accumulation) are both applied once, in the backward pass.

N rows (batch x tokens), D width, V vocabulary, R rows of a chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

Softmax = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(kw_only=True, slots=True)
class NextTokenLoss:
    """Mean cross-entropy in nats of targets under `hidden @ head.T`.

    Products run in the autocast dtype where autocast is on, else in the inputs' own; softmax and sums in float32
    (float64 for float64).
    """

    chunk_rows: int
    """Rows whose logits exist at one time; 0 computes plain full logits."""
    compiled: bool = False
    """Fuse the passes over a chunk's logits with torch.compile."""
    _softmax: Softmax = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._softmax = torch.compile(_softmax, dynamic=False) if self.compiled else _softmax

    def __call__(self, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            hidden: what the head reads, (..., D).
            head: unembedding weight, (V, D).
            targets: next tokens, (...).
        """
        hidden, targets = hidden.flatten(0, -2), targets.flatten()  # (N, D), (N,)
        if self.chunk_rows == 0:
            return functional.cross_entropy(_wide(functional.linear(hidden, head)), targets)
        dtype = _product_dtype(hidden)
        if torch.is_grad_enabled():
            return _ChunkedCrossEntropy.apply(hidden, head, targets, self.chunk_rows, dtype, self._softmax)
        return _loss_only(hidden, head, targets, self.chunk_rows, dtype)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, head: Tensor, targets: Tensor, rows: int, dtype: torch.dtype, softmax: Softmax
    ) -> Tensor:
        weight = head.to(dtype)
        loss = torch.zeros((), dtype=_wide_dtype(dtype), device=hidden.device)
        grad_hidden, grad_head = torch.empty_like(hidden), None
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), rows):
                chunk = hidden[start : start + rows].to(dtype)  # (R, D)
                target = targets[start : start + rows, None]  # (R, 1)
                log_likelihood, grad_logits = softmax(chunk @ weight.T, target)  # (R, 1), (R, V)
                grad_logits.scatter_(1, target, torch.expm1(log_likelihood).to(dtype))  # p - 1, without cancellation
                loss -= log_likelihood.sum()
                grad_hidden[start : start + rows] = grad_logits @ weight
                grad_chunk = grad_logits.T @ chunk  # (V, D)
                grad_head = grad_chunk.to(head.dtype) if grad_head is None else grad_head.add_(grad_chunk)
        ctx.save_for_backward(grad_hidden, grad_head)
        return loss / len(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        scale = grad_loss / len(grad_hidden)
        return grad_hidden * scale, grad_head * scale, None, None, None, None


def _softmax(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihood of the targets (R, 1), and the softmax (R, V) in the logits' dtype."""
    log_probabilities = torch.log_softmax(logits, -1, dtype=_wide_dtype(logits.dtype))
    log_likelihood = log_probabilities.gather(1, target)
    return log_likelihood, log_probabilities.exp_().to(logits.dtype)


def _loss_only(hidden: Tensor, head: Tensor, targets: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    weight = head.to(dtype)
    loss = torch.zeros((), dtype=_wide_dtype(dtype), device=hidden.device)
    with torch.autocast(hidden.device.type, enabled=False):
        for chunk, target in zip(hidden.split(rows), targets.split(rows), strict=True):
            loss += functional.cross_entropy(_wide(chunk.to(dtype) @ weight.T), target, reduction="sum")
    return loss / len(hidden)


def _product_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _wide(logits: Tensor) -> Tensor:
    return logits.to(_wide_dtype(logits.dtype))


def _wide_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
