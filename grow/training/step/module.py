"""The LightningModule: a stock model, its loss, its optimizer and its clock.

Nothing on the hot path waits for a device.

B sequences, T tokens, D width.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from grow.common.clock import Clock
from grow.training.settings import OptimizerSettings
from grow.training.step.objective import NextTokenLoss
from grow.training.step.optimizer import build_optimizer, set_learning_rates
from grow.training.step.trainable import TrainableSet

Value = TypeVar("Value")


class PretrainModule(L.LightningModule):
    """Next-token pretraining of a stock model.

    Args:
        model: a stock causal language model without a bias in its head.
        objective: loss of hidden states, head weight and targets.
        optimizer: settings of the optimizer.
        multiplier: tokens seen -> share of the peak learning rate.
        clock: advanced by every optimizer step.
        input_copies: see `build_optimizer`.
        trainable: what each step runs and trains.
        autocast: multiply in bfloat16.
        shard: called with this module where Lightning wants it to shard its parameters.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        objective: NextTokenLoss,
        optimizer: OptimizerSettings,
        multiplier: Callable[[int], float],
        clock: Clock,
        input_copies: Mapping[str, float],
        trainable: TrainableSet,
        autocast: bool,
        shard: Callable[["PretrainModule"], None] | None = None,
    ) -> None:
        super().__init__()
        self.model = model.train()
        self.clock = clock
        self.learning_rate = 0.0
        """Of the weights that were not grown, at the last step."""
        self._objective, self._optimizer, self._multiplier = objective, optimizer, multiplier
        self._input_copies, self._autocast, self._shard = input_copies, autocast, shard
        self._trainable = trainable
        self._losses: list[Tensor] = []
        self._grad_norms: list[Tensor | float] = []

    @property
    def engine(self) -> Any:
        """DeepSpeed's, where there is one: it then accumulates, clips and steps."""
        return getattr(self.trainer.strategy, "deepspeed_engine", None)

    def loss(self, batch: Tensor, *, by_sequence: bool = False) -> Tensor:
        """Mean cross-entropy in nats of (B, T + 1) tokens, each predicted from those before it.

        Args:
            batch: tokens.
            by_sequence: of each sequence, (B,), in place of all together, ().
        """
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self._autocast):
            hidden = self.model.base_model(input_ids=batch[:, :-1], use_cache=False).last_hidden_state  # (B, T, D)
            head, targets = self.model.get_output_embeddings().weight, batch[:, 1:]
            if not by_sequence:
                return self._objective(hidden, head, targets)
            pairs = zip(hidden, targets, strict=True)
            return torch.stack([self._objective(sequence, head, own) for sequence, own in pairs])

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Loss of one micro-batch, remembered for `mean_loss`."""
        with self._trainable.in_force(self.clock.step):
            loss = self.loss(batch)
        self._losses.append(loss.detach())
        return loss

    def validation_step(self, compute: Callable[[], None]) -> None:
        """Whatever is to be computed on the model; strategies that shard weights gather them around this call."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            compute()

    def without_grad(self, compute: Callable[[], Value]) -> Value:
        """What one pass over the model finds: without gradients, in the precision of training, under any strategy.

        Args:
            compute: calls the model once; every rank comes here as often as every other.
        """
        found: list[Value] = []  # not handed through the strategies' wrappers, which look into what they return
        with torch.no_grad():
            self.trainer.strategy.validation_step(lambda: found.append(compute()))
        return found[0]

    def mean_loss(self) -> float | None:
        """Mean training loss over all ranks since the last call, micro-batches without a finite one left out.

        None where none is finite. Waits for the device.
        """
        losses = torch.stack(self._losses).double()
        self._losses.clear()
        finite = losses.isfinite()
        sums = torch.stack((losses.where(finite, 0).sum(), finite.sum().double()))
        total, count = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        return total / count if count else None

    def grad_norms(self) -> list[float]:
        """Global gradient norm of every step since the last call, before clipping; waits for the device."""
        norms = torch.stack([torch.as_tensor(norm, dtype=torch.float32) for norm in self._grad_norms]).tolist()
        self._grad_norms.clear()
        return norms

    def validation_losses(self, batches: Iterable[Tensor], passes: int) -> Tensor:
        """Mean loss in nats of each sequence of this rank's batches: float64, (sequences,), on the device.

        Args:
            batches: of any rank fewer than `passes`, or as many.
            passes: that every rank makes: strategies that shard weights need all ranks for each.
        """
        losses = [torch.empty(0, dtype=torch.float64, device=self.device)]
        self.eval()
        for batch in batches:
            tokens = self.trainer.strategy.batch_to_device(batch)
            losses.append(self.without_grad(partial(self.loss, tokens, by_sequence=True)).double())
        for _ in range(passes + 1 - len(losses)):
            self.without_grad(partial(self.loss, torch.zeros(1, 2, dtype=torch.int64, device=self.device)))
        self.train()
        return torch.cat(losses)

    def configure_model(self) -> None:
        """Shard, where the strategy leaves that to the module; Lightning may call this more than once."""
        if self._shard is not None:
            self._shard(self)
            self._shard = None

    def configure_optimizers(self) -> Optimizer:
        blocks = self._trainable.blocks(self.model)
        optimizer = build_optimizer(self.model, self._optimizer, self._input_copies, blocks)
        self._trainable.watch(optimizer)
        return optimizer

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by global norm and keep the norm; without a limit the norm is only measured.

        A norm that is not finite makes AdamW's fused kernel leave the step out, without the host having to look.
        """
        if self.engine is not None:
            return  # DeepSpeed clips
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val or float("inf"))
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        optimizer.found_inf = (~norm.isfinite()).float()
        self._grad_norms.append(norm)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Nothing: `optimizer_step` has done it."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """One step at the scheduled rate; gradients are freed at once, not after the next forward pass."""
        self.clock.flops_per_token = self._trainable.flops_per_token(self.clock.step)
        share = self._multiplier(self.clock.tokens + self.clock.tokens_per_step)
        self.learning_rate = self._optimizer.lr * share
        set_learning_rates(optimizer, share)
        optimizer.step(closure=optimizer_closure)
        if self.engine is None:
            optimizer.zero_grad()
            self.clock.advance()
        elif self.engine.micro_steps % self.engine.gradient_accumulation_steps() == 0:  # called every micro-batch
            self._grad_norms.append(self.engine.get_global_grad_norm())
            self.clock.advance()
