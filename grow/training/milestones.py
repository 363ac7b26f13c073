"""What happens between two optimizer steps: rows of metrics, validation, checkpoints."""

import gc
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from grow.common import metrics as names
from grow.common.errors import DivergedError
from grow.training.checkpoint import Checkpoint, CheckpointWriter
from grow.training.metrics import Lap, MetricsFile
from grow.training.module import PretrainModule
from grow.training.plan import Batch, Plan
from grow.training.progress import ProgressDisplay


class Milestones(L.Callback):
    """Logs, validates and saves at the steps where that is due.

    Under several ranks every decision rests on the clock or on a reduced loss, so all ranks take it together.

    Args:
        plan: cadences and length.
        checkpoints: writes them.
        resumed: the checkpoint to continue from.
        rows: metrics.jsonl.
        display: progress.
        first_row: columns for the first row beside its validation loss.
        peak_flops: of the device, where it is known.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        checkpoints: CheckpointWriter,
        resumed: Checkpoint | None,
        rows: MetricsFile,
        display: ProgressDisplay,
        first_row: Mapping[str, Any],
        peak_flops: float | None,
    ) -> None:
        self._settings, self._batch, self._total_steps = plan.trainer, plan.batch, plan.total_steps
        self._checkpoint_tokens = plan.checkpoint.every_tokens
        self._checkpoints, self._resumed = checkpoints, resumed
        self._rows, self._display = rows, display
        self._first_row, self._peak_flops = first_row, peak_flops
        self._seen_tokens = 0
        self._lap = Lap(0)

    def on_train_start(self, trainer: L.Trainer, pl_module: PretrainModule) -> None:
        """Compile, restore, start the clock, and measure the model as it starts."""
        clock = pl_module.clock
        if self._settings.compile != "none":
            _warm_up(trainer, pl_module, self._batch)
        if self._resumed is not None:
            self._resumed.restore_optimizer(pl_module.model, trainer.optimizers[0])
            self._resumed.restore_rng(trainer.global_rank)
        gc.collect()
        gc.freeze()  # what exists now lives as long as the run: later collections need not look at it
        clock.start()
        self._display.start(clock.tokens // clock.tokens_per_step)
        if self._resumed is None:
            self._validate(trainer, pl_module, self._first_row)
        self._seen_tokens = clock.tokens
        self._lap = Lap(clock.tokens)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: PretrainModule, outputs: Any, batch: Tensor, batch_idx: int
    ) -> None:
        """Do what is due, in an order in which a checkpoint's metrics are complete."""
        before, now = self._seen_tokens, pl_module.clock.tokens
        if before == now:
            return  # in the middle of accumulation
        self._seen_tokens = now
        step = now // pl_module.clock.tokens_per_step
        last = step == self._total_steps
        saves = self._checkpoint_tokens is not None and (last or _crossed(before, now, self._checkpoint_tokens))
        if last or saves or step % self._settings.log_every_steps == 0:
            self._log(pl_module, step)
        if last or _crossed(before, now, self._settings.val_every_tokens):
            self._pause(lambda: self._validate(trainer, pl_module, {}))
        if saves:
            self._pause(lambda: self._save(trainer, pl_module))

    def on_train_end(self, trainer: L.Trainer, pl_module: PretrainModule) -> None:
        pl_module.clock.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: PretrainModule, exception: BaseException) -> None:
        """Save before the machine is taken away; weights change only in a whole step, so that any moment will do."""
        if isinstance(exception, SIGTERMException) and self._checkpoint_tokens is not None:
            self._save(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: PretrainModule, stage: str) -> None:
        self._display.stop()
        self._rows.close()
        gc.unfreeze()

    def _log(self, module: PretrainModule, step: int) -> None:
        loss = _finite(module.mean_loss(), "training", step)
        speed = self._lap.tokens_per_second(module.clock.tokens)
        row = {
            names.TRAIN_LOSS: loss,
            names.TRAIN_TOKENS: module.clock.tokens,
            names.LEARNING_RATE: module.learning_rate,
            names.GRAD_NORM: float(module.grad_norm),
            names.TOKENS_PER_SEC: round(speed, 1),
        }
        if self._peak_flops is not None:
            row[names.MFU] = speed * module.clock.flops_per_token / self._peak_flops
        self._rows.write(module.clock, row)
        self._display.update(step, loss, speed)

    def _validate(self, trainer: L.Trainer, module: PretrainModule, columns: Mapping[str, Any]) -> None:
        step = module.clock.tokens // module.clock.tokens_per_step
        loss = _finite(module.validation_loss(trainer.datamodule.val_dataloader()), "validation", step)
        self._rows.write(module.clock, {names.VAL_LOSS: loss, **columns})
        self._display.note(f"validation at {module.clock.tokens:,} tokens: loss {loss:.4f}")

    def _save(self, trainer: L.Trainer, module: PretrainModule) -> None:
        self._checkpoints.write(module.model, trainer.optimizers[0], module.clock, self._rows.size_bytes)

    def _pause(self, action: Callable[[], None]) -> None:
        started = time.perf_counter()
        action()
        self._lap.leave_out(time.perf_counter() - started)


def _crossed(before: int, now: int, every: int) -> bool:
    return before // every < now // every


def _finite(loss: float, kind: str, step: int) -> float:
    if math.isfinite(loss):
        return loss
    raise DivergedError(
        f"the {kind} loss is {loss} at step {step}. Starting again would end the same way: lower optimizer.lr, "
        "lengthen schedule.warmup_tokens, or keep optimizer.max_grad_norm above 0."
    )


def _warm_up(trainer: L.Trainer, module: PretrainModule, sizes: Batch) -> None:
    """Compile what training and validation run, at every shape they meet; the gradients are thrown away."""
    batch = torch.zeros(sizes.micro_batch, sizes.sequence_length + 1, dtype=torch.int64, device=module.device)
    with torch.random.fork_rng([module.device] if module.device.type == "cuda" else []):
        trainer.strategy.training_step(batch, 0).backward()
    trainer.optimizers[0].zero_grad()
    module.mean_loss()
    module.validation_loss({len(batch): batch for batch in trainer.datamodule.val_dataloader()}.values())
