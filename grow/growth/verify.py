"""The check that every growth has to pass if it claims to keep the function: same tokens, same logits, same scale."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from grow.common.errors import DataError
from grow.growth.proof_bar import proof_bar
from grow.growth.streamed import streamed_model

# Largest logit difference, as a share of the largest logit, that rounding explains. Stock RMSNorms and OLMo's LayerNorm
# compute in float32, so float64 weights agree only to float32 there; half-precision weights are rounded when stored.
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """How far the grown model is from its source, on the same tokens."""

    max_abs_logit_diff: float
    max_abs_logit: float
    logit_scale: float
    """Best-fit factor from the source's logits to the grown model's; a wrong head gives 1/n, which argmax hides."""
    kl: float
    """Mean KL divergence of the grown model's next-token distribution from the source's, in nats."""
    loss_before: float
    loss_after: float
    tokens: int
    tolerance: float

    @property
    def preserved(self) -> bool:
        """Whether rounding explains the difference of the logits."""
        close = self.max_abs_logit_diff <= self.tolerance * self.max_abs_logit
        return close and abs(self.logit_scale - 1) <= max(self.tolerance, 5e-5)

    def as_json(self) -> dict[str, float | int]:
        """Return its part of growth.json."""
        return asdict(self)


def verify(source: Path, grown: Path, tokens: Tensor, dtype: torch.dtype) -> Verification:
    """Compare two checkpoint directories; one module of one model is in memory at a time.

    Args:
        source: Directory of the source.
        grown: Directory of the grown model.
        tokens: (sequences, length + 1) int64 token ids; the last of each row is only a target.
        dtype: Type of the stored weights; float64 weights compute in float64, all others in float32.

    Raises:
        DataError: a token id is outside the vocabulary.
    """
    return verify_mean([(source, 1.0)], grown, tokens, dtype)


def verify_mean(sources: Sequence[tuple[Path, float]], grown: Path, tokens: Tensor, dtype: torch.dtype) -> Verification:
    """Compare a grown model with the weighted mean of several sources' logits, as `verify` does with one source.

    Args:
        sources: Directory of each source, and the weight of its logits.
        grown: Directory of the grown model.
        tokens: (sequences, length + 1) int64 token ids; the last of each row is only a target.
        dtype: Type of the stored weights; float64 weights compute in float64, all others in float32.

    Raises:
        DataError: a token id is outside the vocabulary.
    """
    before = torch.stack([weight * logits_of(source, tokens, dtype) for source, weight in sources]).sum(0)
    after = logits_of(grown, tokens, dtype)
    return compare(before, after, tokens[:, 1:], TOLERANCES[dtype])


def logits_of(directory: Path, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute a stored model's logits, (sequences, length, vocabulary); in float64 for float64 weights, else float32.

    A GPU computes them where there is one, as a CPU takes minutes for billions of parameters.

    Raises:
        DataError: a token id is outside the vocabulary.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = streamed_model(directory, torch.float64 if dtype == torch.float64 else torch.float32, device)
    vocabulary = model.config.vocab_size
    if tokens.max() >= vocabulary or tokens.min() < 0:
        raise DataError(
            f"token ids {int(tokens.min())} to {int(tokens.max())} do not fit the vocabulary of {vocabulary} in "
            f"{directory}. Were the data prepared with this model's tokenizer?"
        )
    with torch.no_grad(), proof_bar(directory, model):
        logits: Tensor = model(tokens[:, :-1].to(device)).logits
    return logits.cpu()


def compare(before: Tensor, after: Tensor, targets: Tensor, tolerance: float) -> Verification:
    """Measure two sets of logits, (sequences, length, vocabulary), against each other and against the targets."""
    log_before, log_after = before.log_softmax(-1), after.log_softmax(-1)
    return Verification(
        max_abs_logit_diff=float((after - before).abs().max()),
        max_abs_logit=float(before.abs().max()),
        logit_scale=float((before * after).sum() / before.square().sum()),
        kl=float(functional.kl_div(log_after, log_before, log_target=True, reduction="sum") / targets.numel()),
        loss_before=float(functional.nll_loss(log_before.flatten(0, 1), targets.flatten())),
        loss_after=float(functional.nll_loss(log_after.flatten(0, 1), targets.flatten())),
        tokens=targets.numel(),
        tolerance=tolerance,
    )
