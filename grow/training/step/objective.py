"""Next-token cross-entropy from hidden states, chunk by chunk, with the gradient formed in the forward pass.

    logits = h W^T,  loss = mean(logsumexp(logits) - logits[target]),  d loss / d logits = (softmax - onehot) / N

The gradient with respect to the logits needs nothing beyond what the loss needs. So each chunk of rows computes its
logits, loss, dh and contribution to dW in turn, and the full logits never exist. 1/N multiplies h and dh, which are
small, instead of the gradient of the logits.

N rows (batch x tokens), D width, V vocabulary, R rows of one chunk.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

_CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 2 * 2**30}  # float32 logits of one chunk; a CPU's should fit its cache


@dataclass(kw_only=True, slots=True)
class NextTokenLoss:
    """Mean cross-entropy in nats of targets under `hidden @ head.T`.

    Matrix products run in the autocast dtype where autocast is on, else in the inputs' dtype; softmax and sums run in
    float32 (float64 for float64 inputs).
    """

    chunk_rows: int | None = None
    """Rows whose logits exist at one time; None chooses by device, 0 computes plain full logits."""
    compiled: bool = False
    """Whether torch.compile fuses the passes over a chunk's logits."""
    cap: float | None = None
    """Bound of the logits, cap tanh(logits / cap), where the model has one (Gemma 2, arXiv 2408.00118, section 2)."""
    _kernels: "Kernels" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        wrap = partial(torch.compile, dynamic=False) if self.compiled else lambda kernel: kernel
        self._kernels = Kernels(softmax_=wrap(_softmax_), add=wrap(add_))

    def __call__(self, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss, a scalar of shape ().

        Args:
            hidden: Hidden states that the head reads, (..., D).
            head: Weight of the unembedding, (V, D).
            targets: Next tokens, int64, (...).
        """
        hidden, targets = hidden.flatten(0, -2), targets.flatten()  # (N, D), (N,)
        if self.chunk_rows == 0:
            return functional.cross_entropy(capped(wide(functional.linear(hidden, head)), self.cap), targets)
        rows = self.chunk_rows or rows_per_chunk(len(hidden), len(head), hidden.device.type)
        dtype = product_dtype(hidden)
        if torch.is_grad_enabled():
            return _ChunkedCrossEntropy.apply(hidden, head, targets, rows, dtype, self.cap, self._kernels)
        return _loss_only(hidden, head, targets, rows, dtype, self.cap)


def rows_per_chunk(rows: int, vocabulary: int, device: str) -> int:
    """Return the rows of one chunk: the fewest equal chunks whose float32 logits fit the device's limit.

    Args:
        rows: Number of rows of the whole micro-batch, N.
        vocabulary: Size of the vocabulary, V.
        device: Device type, cpu or cuda.
    """
    limit = _CHUNK_BYTES.get(device, _CHUNK_BYTES["cpu"])
    chunks = math.ceil(rows * vocabulary * 4 / limit)
    return math.ceil(rows / chunks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernels:
    """Operations on a chunk that are worth fusing, plain or compiled."""

    softmax_: Callable[[Tensor, Tensor], Tensor]
    add: Callable[[Tensor, Tensor], Tensor]


class _Context(FunctionCtx):
    """What the forward pass leaves for the backward pass."""

    needs_input_grad: tuple[bool, ...]
    gradients: tuple[Tensor, Tensor | None] | None
    """Gradients of the hidden states, (N, D), and of the head, (V, D); None once they were used."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        rows: int,
        dtype: torch.dtype,
        cap: float | None,
        kernels: Kernels,
    ) -> Tensor:
        weight, share = head.to(dtype), 1 / len(hidden)
        lines = torch.arange(rows, device=hidden.device)
        loss = torch.zeros((), dtype=wide_dtype(dtype), device=hidden.device)
        grad_hidden, grad_head = torch.empty_like(hidden), None
        trains_head = ctx.needs_input_grad[1]
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), rows):
                chunk = hidden[start : start + rows]  # (R, D)
                target = targets[start : start + rows]  # (R,)
                grad_logits = chunk.to(dtype) @ weight.T  # (R, V), still the logits
                slope = cap_(grad_logits, cap)
                log_likelihood = kernels.softmax_(grad_logits, target)  # (R,)
                grad_logits.index_put_((lines[: len(chunk)], target), torch.expm1(log_likelihood).to(dtype))  # p - 1
                if slope is not None:
                    grad_logits *= slope
                loss -= log_likelihood.sum()
                torch.mul(grad_logits @ weight, share, out=grad_hidden[start : start + rows])
                if trains_head:
                    narrow = (chunk * share).to(dtype)
                    grad_head = add_product(grad_head, grad_logits.T, narrow, head.dtype, kernels.add)
        ctx.gradients = (grad_hidden, grad_head)
        return loss * share

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("expected one backward pass through the loss, found a second")
        grad_hidden, grad_head = ctx.gradients
        if grad_loss.device.type == "cpu" and grad_loss == 1:  # on a GPU the comparison would make the host wait
            ctx.gradients = None  # autograd takes a gradient without copying it only where nothing else refers to it
            return grad_hidden, grad_head, None, None, None, None, None
        grad_head = None if grad_head is None else grad_head * grad_loss
        return grad_hidden * grad_loss, grad_head, None, None, None, None, None


def _softmax_(logits: Tensor, target: Tensor) -> Tensor:
    """Return the log-likelihood of the targets, (R,), and turn the logits, (R, V), into their softmax in place."""
    log_probabilities = torch.log_softmax(logits, -1, dtype=wide_dtype(logits.dtype))
    log_likelihood = log_probabilities.gather(1, target[:, None])[:, 0]
    logits.copy_(log_probabilities.exp_())
    return log_likelihood


def add_product(
    total: Tensor | None, left: Tensor, right: Tensor, dtype: torch.dtype, add: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return total + left @ right in the given dtype, added in place where there is a total."""
    if total is None:
        return (left @ right).to(dtype)
    return total.addmm_(left, right) if left.dtype == dtype else add(total, left @ right)


def add_(total: Tensor, term: Tensor) -> Tensor:
    """Add a term to a total in place, and return it."""
    return total.add_(term)


def _loss_only(
    hidden: Tensor, head: Tensor, targets: Tensor, rows: int, dtype: torch.dtype, cap: float | None
) -> Tensor:
    weight = head.to(dtype)
    loss = torch.zeros((), dtype=wide_dtype(dtype), device=hidden.device)
    with torch.autocast(hidden.device.type, enabled=False):
        for chunk, target in zip(hidden.split(rows), targets.split(rows), strict=True):
            loss += functional.cross_entropy(capped(wide(chunk.to(dtype) @ weight.T), cap), target, reduction="sum")
    return loss / len(hidden)


def capped(logits: Tensor, cap: float | None) -> Tensor:
    """Return logits within a bound, cap tanh(logits / cap); unchanged where there is none."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def cap_(logits: Tensor, cap: float | None) -> Tensor | None:
    """Bound logits in place, and return the derivative of the bounded ones by the given ones; None without a bound."""
    if cap is None:
        return None
    logits.div_(cap).tanh_()
    slope = 1 - logits.square()
    logits.mul_(cap)
    return slope


def product_dtype(hidden: Tensor) -> torch.dtype:
    """Return the dtype in which hidden states are multiplied: autocast's where that is on, else their own."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def wide(logits: Tensor) -> Tensor:
    """Return logits in float32, or in float64 where they are."""
    return logits.to(wide_dtype(logits.dtype))


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which softmax and sums run: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)
