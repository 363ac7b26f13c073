"""The LightningModule that trains: a stock model with its loss, optimizer, learning-rate schedule and clock.

No method that runs at every step waits for the device.

B sequences, T tokens of one sequence, D width of the model.
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
from grow.families.experts import by_parameter
from grow.families.registry import family_of
from grow.training.settings import OptimizerSettings
from grow.training.step.objective import NextTokenLoss
from grow.training.step.optimizer import build_optimizer, set_learning_rates
from grow.training.step.routing import Routing
from grow.training.step.teacher import Teaching
from grow.training.step.trainable import TrainableSet

Value = TypeVar("Value")


class PretrainModule(L.LightningModule):
    """Next-token pretraining of a stock model.

    Args:
        model: Stock causal language model whose head has no bias.
        objective: Loss of hidden states, head weight and targets.
        optimizer: Settings of the optimizer.
        multiplier: Schedule: the function from tokens seen to the multiple of the peak learning rate.
        clock: Clock of the run; every optimizer step advances it.
        input_copies: Copies of each weight's inputs, as `build_optimizer` takes them.
        trainable: Layers that each step runs and trains.
        autocast: Whether matrix products are computed in bfloat16.
        teaching: Teacher that the training loss is mixed with; None for next-token training.
        routing: Losses of a mixture's routers, which are added to the training loss; None for a dense model.
        shard: Function that shards this module's parameters; None where the strategy does that by itself.
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
        teaching: Teaching | None = None,
        routing: Routing | None = None,
        shard: Callable[["PretrainModule"], None] | None = None,
    ) -> None:
        super().__init__()
        self.model = model.train()
        self.clock = clock
        self.learning_rate = 0.0
        """Learning rate of the last step, for logging: of weights whose inputs no growth repeated."""
        self.last_alpha: float | None = None
        """Share of the teacher's term in the last step, for logging; None without a teacher."""
        self._objective, self._optimizer, self._multiplier = objective, optimizer, multiplier
        self._input_copies, self._autocast, self._shard = input_copies, autocast, shard
        self._trainable, self._teaching, self._routing = trainable, teaching, routing
        self._losses: list[Tensor] = []
        self._taught: list[Tensor] = []
        self._grad_norms: list[Tensor | float] = []

    @property
    def engine(self) -> Any:
        """DeepSpeed's engine, which accumulates, clips and steps itself; None under other strategies."""
        return getattr(self.trainer.strategy, "deepspeed_engine", None)

    def loss(self, batch: Tensor, *, by_sequence: bool = False) -> Tensor:
        """Compute the mean cross-entropy in nats of predicting each token from those before it.

        Args:
            batch: Tokens, int64, (B, T + 1).
            by_sequence: Whether to return the mean of each sequence, (B,), instead of one mean, ().
        """
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self._autocast):
            hidden = self.model.base_model(input_ids=batch[:, :-1], use_cache=False).last_hidden_state  # (B, T, D)
            head, targets = self.model.get_output_embeddings().weight, batch[:, 1:]
            if not by_sequence:
                return self._objective(hidden, head, targets)
            pairs = zip(hidden, targets, strict=True)
            return torch.stack([self._objective(sequence, head, own) for sequence, own in pairs])

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Compute the loss of one micro-batch, and keep it for `mean_loss`. Lightning calls this."""
        with self._trainable.applied_at(self.clock.step):
            return self._training_loss(batch)

    @property
    def alpha(self) -> float | None:
        """Share of the teacher's term in the step under way; None without a teacher."""
        return None if self._teaching is None else self._teaching.alpha(self.clock.tokens)

    def _training_loss(self, batch: Tensor) -> Tensor:
        """Compute what one micro-batch is trained on, and keep its terms for the rows."""
        tokens, targets = batch[:, :-1], batch[:, 1:]
        asked = {} if self._routing is None else {"output_router_logits": True}
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=self._autocast):
            trunk = self.model.base_model(input_ids=tokens, use_cache=False, **asked)
            hidden, head = trunk.last_hidden_state, self.model.get_output_embeddings().weight
            if self._teaching is not None and self.alpha:
                taught = self._teaching.of(tokens, hidden, head, targets, self.clock.tokens)
                loss, cross_entropy = taught.mixed, taught.cross_entropy
                self._taught.append(torch.stack((taught.divergence, loss.detach())))
            else:
                loss = self._objective(hidden, head, targets)
                cross_entropy = loss.detach()
        self._losses.append(cross_entropy)
        if self._routing is None:
            return loss
        return loss + self._routing.loss(trunk.router_logits, self.clock.step).weighted

    def routing_row(self) -> dict[str, float]:
        """Return the columns about a mixture's routing since the last call; none of a dense model."""
        return {} if self._routing is None else self._routing.row()

    def validation_step(self, compute: Callable[[], None]) -> None:
        """Run a computation on the model. Strategies that shard weights gather them around this call."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            compute()

    def without_grad(self, compute: Callable[[], Value]) -> Value:
        """Run one forward pass without gradients, in training's precision, under any strategy; return its result.

        All ranks must call this the same number of times.

        Args:
            compute: Function that calls the model exactly once.
        """
        found: list[Value] = []  # the strategies' wrappers inspect and change return values, so none passes through
        with torch.no_grad():
            self.trainer.strategy.validation_step(lambda: found.append(compute()))
        return found[0]

    def mean_loss(self) -> float | None:
        """Return the mean training loss of all ranks' micro-batches since the last call; waits for the device.

        Losses that are not finite are left out; where none is finite, return None.
        """
        losses = torch.stack(self._losses)
        self._losses.clear()
        return self._finite_mean(losses[:, None])[0]

    def mean_taught(self) -> tuple[float | None, float | None]:
        """Return the mean divergence from the teacher and the mean mixed loss, as `mean_loss` does.

        Both are None where no step since the last call was taught.
        """
        if not self._taught:  # on all ranks alike, as the clock decides it
            return None, None
        taught = torch.stack(self._taught)
        self._taught.clear()
        divergence, mixed = self._finite_mean(taught)
        return divergence, mixed

    def _finite_mean(self, values: Tensor) -> list[float | None]:
        """Return the mean over all ranks of the finite values of each column, None where there is none.

        Args:
            values: Values of this rank's micro-batches, (micro-batches, columns).
        """
        finite = values.isfinite()
        sums = torch.stack((values.double().where(finite, 0).sum(0), finite.sum(0).double()))
        totals, counts = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        return [total / count if count else None for total, count in zip(totals, counts, strict=True)]

    def grad_norms(self) -> list[float]:
        """Return the global gradient norm, before clipping, of every step since the last call; waits for the device."""
        norms = torch.stack([torch.as_tensor(norm, dtype=torch.float32) for norm in self._grad_norms]).tolist()
        self._grad_norms.clear()
        return norms

    def validation_losses(self, batches: Iterable[Tensor], passes: int) -> Tensor:
        """Return the mean loss in nats of each sequence of this rank's batches: float64, (sequences,), on the device.

        Args:
            batches: Validation batches of this rank, at most `passes` of them.
            passes: Forward passes of every rank: strategies that shard weights need all ranks for each pass, so a
                rank with fewer batches adds dummy ones.
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
        """Shard the parameters, once, where the strategy leaves that to the module. Lightning calls this."""
        if self._shard is not None:
            self._shard(self)
            self._shard = None

    def configure_optimizers(self) -> Optimizer:
        """Build the optimizer. Lightning calls this once, before training."""
        blocks = self._trainable.blocks(self.model)
        family = family_of(self.model.config.model_type)
        copies = by_parameter(family, self.model, self._input_copies)
        optimizer = build_optimizer(self.model, self._optimizer, copies, blocks)
        self._trainable.attach_to(optimizer)
        return optimizer

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip gradients by their global norm and keep the norm. Lightning calls this before each optimizer step.

        Without a limit the norm is only measured. Where it is not finite, AdamW's fused kernel skips the step: it
        reads `found_inf` on the device, so the host does not wait.
        """
        if self.engine is not None:
            return  # DeepSpeed has clipped
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val or float("inf"))
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        optimizer.found_inf = (~norm.isfinite()).float()
        self._grad_norms.append(norm)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Do nothing: `optimizer_step` frees the gradients. Lightning calls this before each backward pass."""

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Take one step at the scheduled learning rate, free the gradients and advance the clock. Lightning calls this.

        Lightning itself would free gradients only after the next forward pass, which costs their memory for longer.
        """
        self.clock.flops_per_token = self._trainable.flops_per_token(self.clock.step)
        if self._teaching is not None:
            self.last_alpha = self.alpha
            self.clock.flops_per_token += self._teaching.flops_per_token(self.clock.tokens)
        multiplier = self._multiplier(self.clock.tokens + self.clock.tokens_per_step)
        self.learning_rate = self._optimizer.lr * multiplier
        set_learning_rates(optimizer, multiplier)
        optimizer.step(closure=optimizer_closure)
        if self.engine is None:
            optimizer.zero_grad()
            self.clock.advance()
        elif self.engine.micro_steps % self.engine.gradient_accumulation_steps() == 0:  # called for every micro-batch
            self._grad_norms.append(self.engine.get_global_grad_norm())
            self.clock.advance()
