"""The LightningModule: a stock model, its loss, its optimizer and its clock.

Nothing on the hot path waits for a device.

B sequences, T tokens, D width.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from grow.common.clock import Clock
from grow.training.objective import NextTokenLoss
from grow.training.optimizer import build_optimizer, set_learning_rates
from grow.training.settings import OptimizerSettings


class PretrainModule(L.LightningModule):
    """Next-token pretraining of a stock model.

    Args:
        model: a stock causal language model without a bias in its head.
        objective: loss of hidden states, head weight and targets.
        optimizer: settings of the optimizer.
        multiplier: tokens seen -> share of the peak learning rate.
        clock: advanced by every optimizer step.
        input_copies: see `build_optimizer`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        objective: NextTokenLoss,
        optimizer: OptimizerSettings,
        multiplier: Callable[[int], float],
        clock: Clock,
        input_copies: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.model = model.train()
        self.clock = clock
        self.learning_rate = 0.0
        """Of the weights that were not grown, at the last step."""
        self.grad_norm: Tensor | None = None
        """Global norm that the last step's gradients were clipped by."""
        self._objective, self._optimizer, self._multiplier = objective, optimizer, multiplier
        self._input_copies = input_copies
        self._losses: list[Tensor] = []

    def loss(self, batch: Tensor) -> Tensor:
        """Mean cross-entropy in nats of (B, T + 1) tokens, each predicted from those before it."""
        hidden = self.model.base_model(input_ids=batch[:, :-1], use_cache=False).last_hidden_state  # (B, T, D)
        return self._objective(hidden, self.model.get_output_embeddings().weight, batch[:, 1:])

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Loss of one micro-batch, remembered for `mean_loss`."""
        loss = self.loss(batch)
        self._losses.append(loss.detach())
        return loss

    def mean_loss(self) -> float:
        """Mean training loss over all ranks since the last call; waits for the device."""
        mean = torch.stack(self._losses).mean()
        self._losses.clear()
        return float(self.trainer.strategy.reduce(mean, reduce_op="mean"))

    def validation_loss(self, batches: Iterable[Tensor]) -> float:
        """Mean loss in nats of all ranks' validation tokens."""
        total, rows = torch.zeros((), dtype=torch.float64, device=self.device), 0
        self.eval()
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for batch in batches:
                total += self.loss(self.trainer.strategy.batch_to_device(batch)) * len(batch)
                rows += len(batch)
        self.train()
        sums = torch.stack((total, torch.full_like(total, rows)))
        loss, rows = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        return loss / rows

    def configure_optimizers(self) -> Optimizer:
        return build_optimizer(self.model, self._optimizer, self._input_copies)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by global norm and keep the norm; without a limit the norm is only measured."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.grad_norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val or float("inf"))

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Nothing: `optimizer_step` has done it."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """One step at the scheduled rate; gradients are freed at once, not after the next forward pass."""
        share = self._multiplier(self.clock.tokens + self.clock.tokens_per_step)
        self.learning_rate = self._optimizer.lr * share
        set_learning_rates(optimizer, share)
        optimizer.step(closure=optimizer_closure)
        optimizer.zero_grad()
        self.clock.advance()
