"""Knowledge inheritance: cross-entropy mixed with the divergence from a teacher, chunk by chunk.

    L = (1 - a) H(y, p) + a tau^2 KL(q_tau || p_tau)          q teacher, p student, both softmax(logits / tau)
    d L / d logits = ((1 - a)(p - onehot) + a tau (p_tau - q_tau)) / N
    a_t = max(alpha - alpha_decay t / T, 0)                    t tokens seen before the step, T tokens of the run

Both terms are means over positions. As in next-token training each chunk of rows computes its logits, its losses and
its gradient in turn, so that neither model's full logits ever exist.

Source: Qin et al., Knowledge Inheritance for Pre-trained Language Models, NAACL 2022 (arXiv 2105.13880).

N rows (batch x tokens), D width, V vocabulary, R rows of one chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from grow.training.settings import ObjectiveSettings
from grow.training.step.objective import (
    add_,
    add_product,
    cap_,
    capped,
    product_dtype,
    rows_per_chunk,
    wide,
    wide_dtype,
)


def alpha_at(settings: ObjectiveSettings, tokens: int, max_tokens: int) -> float:
    """Return the share of the teacher's term in a step's loss.

    Args:
        settings: Share at the start, and how much of it is lost over the run.
        tokens: Tokens seen before the step.
        max_tokens: Length of the run in tokens.
    """
    return max(settings.alpha - settings.alpha_decay * tokens / max_tokens, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaughtLoss:
    """Losses in nats of one micro-batch, scalars of shape (). Only `mixed` has a gradient."""

    mixed: Tensor
    """What is trained on: L above."""
    cross_entropy: Tensor
    """H(y, p), the loss of next-token training."""
    divergence: Tensor
    """KL(q_tau || p_tau)."""


@dataclass(kw_only=True, slots=True)
class InheritanceLoss:
    """Mixed loss of targets and a teacher's predictions under `hidden @ head.T`.

    Precision is that of `NextTokenLoss`: products in the autocast dtype where autocast is on, softmax and sums in
    float32.
    """

    temperature: float = 1.0
    chunk_rows: int | None = None
    """Rows whose logits exist at one time; None chooses by device, 0 computes plain full logits."""
    compiled: bool = False
    """Whether torch.compile fuses the passes over a chunk's logits."""
    cap: float | None = None
    """Bound of the student's logits, as of `NextTokenLoss`."""
    teacher_cap: float | None = None
    """Bound of the teacher's logits."""
    _kernels: "TaughtKernels" = field(init=False, repr=False)

    def __post_init__(self) -> None:
        compile_: Callable = partial(torch.compile, dynamic=False) if self.compiled else lambda kernel: kernel
        self._kernels = TaughtKernels(gradient_=compile_(_gradient_), add=compile_(add_))

    def __call__(
        self, hidden: Tensor, head: Tensor, targets: Tensor, taught: Tensor, teacher_head: Tensor, alpha: float
    ) -> TaughtLoss:
        """Compute the losses.

        Args:
            hidden: Hidden states that the student's head reads, (..., D).
            head: Weight of the student's unembedding, (V, D).
            targets: Next tokens, int64, (...).
            taught: Hidden states that the teacher's head reads, (..., D').
            teacher_head: Weight of the teacher's unembedding, (V, D').
            alpha: Share of the teacher's term, above 0 and up to 1.
        """
        hidden, taught, targets = hidden.flatten(0, -2), taught.flatten(0, -2), targets.flatten()
        if self.chunk_rows == 0:
            return self._plain(hidden, head, targets, taught, teacher_head, alpha)
        rows = self.chunk_rows or rows_per_chunk(2 * len(hidden), len(head), hidden.device.type)  # two models' logits
        share = torch.tensor(alpha, dtype=wide_dtype(hidden.dtype), device=hidden.device)
        mixed, cross_entropy, divergence = _ChunkedInheritance.apply(
            hidden,
            head,
            targets,
            taught,
            teacher_head,
            share,
            self.temperature,
            (self.cap, self.teacher_cap),
            rows,
            self._kernels,
        )
        return TaughtLoss(mixed=mixed, cross_entropy=cross_entropy, divergence=divergence)

    def _plain(
        self, hidden: Tensor, head: Tensor, targets: Tensor, taught: Tensor, teacher_head: Tensor, alpha: float
    ) -> TaughtLoss:
        """Compute the losses from the full logits of both models."""
        logits = capped(wide(functional.linear(hidden, head)), self.cap)
        teacher = capped(wide(functional.linear(taught.to(teacher_head.dtype), teacher_head)), self.teacher_cap)
        cross_entropy = functional.cross_entropy(logits, targets)
        divergence = functional.kl_div(
            torch.log_softmax(logits / self.temperature, -1),
            torch.log_softmax(teacher / self.temperature, -1),
            log_target=True,
            reduction="batchmean",
        )
        mixed = (1 - alpha) * cross_entropy + alpha * self.temperature**2 * divergence
        return TaughtLoss(mixed=mixed, cross_entropy=cross_entropy.detach(), divergence=divergence.detach())


@dataclass(frozen=True, kw_only=True, slots=True)
class TaughtKernels:
    """Operations on a chunk that are worth fusing, plain or compiled."""

    gradient_: Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    add: Callable[[Tensor, Tensor], Tensor]


class _Context(FunctionCtx):
    """What the forward pass leaves for the backward pass."""

    needs_input_grad: tuple[bool, ...]
    gradients: tuple[Tensor, Tensor | None]
    """Gradients of the hidden states, (N, D), and of the head, (V, D)."""


class _ChunkedInheritance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        taught: Tensor,
        teacher_head: Tensor,
        alpha: Tensor,
        temperature: float,
        caps: tuple[float | None, float | None],
        rows: int,
        kernels: TaughtKernels,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype, share = product_dtype(hidden), 1 / len(hidden)
        weight, teacher_weight = head.to(dtype), teacher_head.to(dtype)
        losses = torch.zeros(2, dtype=wide_dtype(dtype), device=hidden.device)  # cross-entropy, divergence
        grad_hidden, grad_head = torch.empty_like(hidden), None
        trains_head = ctx.needs_input_grad[1]
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), rows):
                here = slice(start, start + rows)
                chunk = hidden[here]  # (R, D)
                grad_logits = chunk.to(dtype) @ weight.T  # (R, V), still the student's logits
                teacher = taught[here].to(dtype) @ teacher_weight.T  # (R, V)
                slope = cap_(grad_logits, caps[0])
                cap_(teacher, caps[1])
                losses += torch.stack(kernels.gradient_(grad_logits, teacher, targets[here], alpha, temperature))
                if slope is not None:
                    grad_logits *= slope
                torch.mul(grad_logits @ weight, share, out=grad_hidden[here])
                if trains_head:
                    narrow = (chunk * share).to(dtype)
                    grad_head = add_product(grad_head, grad_logits.T, narrow, head.dtype, kernels.add)
        ctx.gradients = (grad_hidden, grad_head)
        cross_entropy, divergence = (losses * share).unbind()
        ctx.mark_non_differentiable(cross_entropy, divergence)
        mixed = (1 - alpha) * cross_entropy + alpha * temperature**2 * divergence
        return mixed, cross_entropy, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad_mixed: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.gradients
        grad_head = None if grad_head is None else grad_head * grad_mixed
        return grad_hidden * grad_mixed, grad_head, *(None,) * 8


def _gradient_(
    logits: Tensor, teacher: Tensor, targets: Tensor, alpha: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the sums of cross-entropy and divergence, and turn the logits, (R, V), into their gradient in place."""
    likelihoods = torch.log_softmax(logits, -1, dtype=wide_dtype(logits.dtype))
    softened = torch.log_softmax(wide(logits) / temperature, -1)
    expected = torch.log_softmax(wide(teacher) / temperature, -1)
    of_targets = likelihoods.gather(1, targets[:, None])  # (R, 1)
    divergence = (expected.exp() * (expected - softened)).sum()
    gradient = (1 - alpha) * likelihoods.exp()
    gradient.scatter_(1, targets[:, None], (1 - alpha) * torch.expm1(of_targets))  # p - 1
    gradient += alpha * temperature * (softened.exp() - expected.exp())
    logits.copy_(gradient)
    return -of_targets.sum(), divergence
