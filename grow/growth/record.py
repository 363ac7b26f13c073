"""The record of a growth: what was done, what it cost, and how far the result is from its source. It is growth.json."""

from dataclasses import asdict, dataclass

from grow.common.provenance import Lineage, digest_json
from grow.growth.made_tensors import GrowthPlan, TensorPlan
from grow.growth.settings import GrowthSettings
from grow.growth.verify import Verification


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowthRecord:
    """What a growth did, and what its verification found."""

    growth: GrowthSettings
    lineage: Lineage
    plan: GrowthPlan
    verification: Verification
    renamed: dict[str, str]
    """Checkpoint name -> name in the stock module, where the two differ."""
    continued: str | None = None
    """What became of an earlier try that was stopped, in one line; None where there was none."""

    @property
    def input_copies(self) -> dict[str, float]:
        """How often the inputs of each weight were repeated, by its name in the stock module."""
        return {
            self.renamed.get(tensor.target.name, tensor.target.name): tensor.input_copies
            for tensor in self.plan.tensors
        }

    @property
    def breaks_symmetry(self) -> bool:
        """Whether copies can diverge in training: there are none, or something makes them unequal."""
        if self.growth.optimizer_state == "asymmetric":
            return True
        unequal = self.growth.breaks_symmetry
        widened = any(tensor.input_copies > 1 for tensor in self.plan.tensors)
        copied = any(isinstance(tensor, TensorPlan) and tensor.new_expert for tensor in self.plan.tensors)
        return (unequal or not widened) and (not copied or (unequal and widened))

    @property
    def described(self) -> str:
        """What became of the source, in a few words for a run's first lines."""
        name, stored = self.growth.name, ", ".join(sorted(self._halves)) or self.growth.dtype
        if self.plan.preserves and all(factor == 1 for factor in self.plan.factors.values()):
            return f"{self.lineage.source}, unchanged (growth={name})"
        kept = "its function kept" if self.plan.preserves else "which changes its function"
        return f"{self.lineage.source}, grown by {name}, {kept}" + (f", stored in {stored}" * (stored != "source"))

    @property
    def _halves(self) -> set[str]:
        """Types of two bytes in which weights are stored: training starts from what is left after rounding."""
        dtypes = {tensor.target.dtype for tensor in self.plan.tensors}
        return {str(dtype).removeprefix("torch.") for dtype in dtypes if dtype.itemsize == 2}

    @property
    def notice(self) -> str | None:
        """What a run must say first if it does not start with its source's function; None if it does."""
        if self.plan.preserves:
            return None
        checked = self.verification
        return (
            f"growth={self.growth.name} does not preserve the function: {'; '.join(self.plan.reasons)}. "
            f"Loss {checked.loss_before:.3f} before, {checked.loss_after:.3f} after; logits differ by up to "
            f"{checked.max_abs_logit_diff:.3g} of {checked.max_abs_logit:.3g}, KL {checked.kl:.3g}."
        )

    def as_json(self) -> dict[str, object]:
        """Return the content of growth.json."""
        tensors = {tensor.target.name: tensor.as_json() for tensor in self.plan.tensors}
        return {
            "growth": asdict(self.growth),
            "source": self.lineage.as_json(),
            "preserves": self.plan.preserves,
            "reasons": list(self.plan.reasons),
            "preserved": self.verification.preserved,
            **self.verification.as_json(),
            "factors": self.plan.factors,
            "layers": self.plan.layers,
            "plan_digest": digest_json({"growth": asdict(self.growth), "tensors": tensors}),
            "tensors": tensors,
        }
