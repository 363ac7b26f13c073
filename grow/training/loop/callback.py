"""What happens between two optimizer steps: rows of metrics, validation, checkpoints, giving way to the system."""

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from grow.averaging.average import new_average
from grow.common import metric_names as names
from grow.common.errors import DivergedError, PreemptedError
from grow.training.checkpoints.checkpoint_reader import PREEMPTION, ROLLING
from grow.training.checkpoints.checkpoint_writer import CheckpointWriter
from grow.training.checkpoints.fragments import full_weights
from grow.training.checkpoints.run_average import RunAverage
from grow.training.engine.readback import check_engine
from grow.training.loop.metrics import Lap, MetricsFile
from grow.training.loop.preemption import Preemption
from grow.training.loop.probe import Probe
from grow.training.loop.progress import ProgressDisplay
from grow.training.loop.restore import Resume
from grow.training.loop.skipped import SkippedSteps
from grow.training.loop.validation import Validation
from grow.training.loop.watchdog import Watchdog
from grow.training.plan import Batch, Plan
from grow.training.step.module import PretrainModule


class LoopCallback(L.Callback):
    """Logs, validates and saves at the steps where that is due.

    Under several ranks every decision rests on the clock or on reduced values, so all ranks take it together.

    Args:
        plan: cadences and length.
        resume: puts a checkpoint's state, or exact masters, into the engine.
        checkpoints: writes them.
        preemption: whether the system wants the machine back.
        watchdog: hears from every step.
        skipped: counts steps without a finite gradient.
        rows: metrics.jsonl.
        display: progress.
        probes: measure what else is wanted.
        window: directory for the snapshots of averaging.storage=disk, this rank's alone.
        first_row: columns for the first row beside its validation loss.
        peak_flops: of the device, where it is known.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        resume: Resume,
        checkpoints: CheckpointWriter,
        preemption: Preemption,
        watchdog: Watchdog,
        skipped: SkippedSteps,
        rows: MetricsFile,
        display: ProgressDisplay,
        probes: Sequence[Probe],
        window: Path,
        first_row: Mapping[str, Any],
        peak_flops: float | None,
    ) -> None:
        self._plan, self._settings = plan, plan.trainer
        self._resume, self._checkpoints = resume, checkpoints
        self._preemption, self._watchdog, self._skipped = preemption, watchdog, skipped
        self._rows, self._display, self._probes = rows, display, probes
        self._window, self._first_row, self._peak_flops = window, first_row, peak_flops
        self._seen_tokens = 0
        self._lap = Lap(0)
        self._average: RunAverage | None = None
        self.weights: Mapping[str, Tensor] | None = None
        """Trained float32 weights, on rank 0, at the end of training."""
        self.averaged_weights: Mapping[str, Tensor] | None = None
        """Their average, on rank 0, where there is one."""

    def on_train_start(self, trainer: L.Trainer, pl_module: PretrainModule) -> None:
        """Compile, restore, start the clock, and measure the model as it starts."""
        clock = pl_module.clock
        check_engine(trainer, self._plan)
        self._preemption.start()
        self._watchdog.start()
        if self._settings.compile != "none" and pl_module.engine is None:
            _warm_up(trainer, pl_module, self._plan.batch)
        if self._plan.averaging is not None:
            average = new_average(self._plan.averaging, self._window)
            self._average = RunAverage(average, pl_module.model, trainer.optimizers[0])
        self._resume.restore(pl_module.model, trainer.optimizers[0], self._average)
        self._validation = Validation(trainer.datamodule, pl_module)
        gc.collect()
        gc.freeze()  # what exists now lives as long as the run: later collections need not look at it
        clock.start()
        self._display.start(clock.step)
        if self._resume.is_fresh:
            if self._validation.without_bytes is not None:
                self._display.note(f"no bits per byte: {self._validation.without_bytes}")
            self._validate(pl_module, self._first_row)
        self._probe(pl_module, clock.tokens - clock.tokens_per_step)  # a checkpoint is of before its step's probes
        self._seen_tokens = clock.tokens
        self._lap = Lap(clock.tokens)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: PretrainModule, outputs: Any, batch: Tensor, batch_idx: int
    ) -> None:
        """Do what is due, in an order in which a checkpoint's metrics are complete."""
        before, now, step = self._seen_tokens, pl_module.clock.tokens, pl_module.clock.step
        if before == now:
            return  # in the middle of accumulation
        self._seen_tokens = now
        last = self._plan.steps_from(now) == 0
        if self._average is not None:
            self._checkpoints.wait()  # it may still be writing the snapshots that the next one pushes out
            self._average.push_if_due(step)
        preempted = self._preemption.agreed() and not last
        kind = self._plan.checkpoint.due(before, now)
        if kind is None and self._plan.checkpoint.every_tokens is not None and (last or preempted):
            kind = ROLLING if last else PREEMPTION
        if last or kind is not None or step % self._settings.log_every_steps == 0:
            self._log(pl_module)
        if last or _crossed(before, now, self._settings.val_every_tokens):
            self._pause(lambda: self._validate(pl_module, {}))
        if last:
            self._pause(lambda: self._probe(pl_module, before))  # nobody continues from the last checkpoint
        if kind is not None and self._skipped.in_a_row == 0:  # else the weights may be what makes gradients infinite
            self._pause(lambda: self._save(kind, trainer, pl_module))
        if preempted:
            self._give_way(pl_module)
        if not last:
            self._pause(lambda: self._probe(pl_module, before))
        self._watchdog.heartbeat(f"step {step + 1}")

    def on_train_end(self, trainer: L.Trainer, pl_module: PretrainModule) -> None:
        pl_module.clock.stop()
        self._watchdog.heartbeat("the last checkpoint")
        self._checkpoints.finish()
        self.weights = full_weights(pl_module.model)
        if self._average is not None and self._average.ready:
            self.averaged_weights = self._average.full()

    def on_exception(self, trainer: L.Trainer, pl_module: PretrainModule, exception: BaseException) -> None:
        """Let a checkpoint that is being written become whole; what ended the run matters more than its failure."""
        with suppress(Exception):
            self._checkpoints.wait()
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: L.Trainer, pl_module: PretrainModule, stage: str) -> None:
        self._watchdog.stop()
        self._preemption.stop()
        self._display.stop()
        self._rows.close()
        gc.unfreeze()

    def _log(self, module: PretrainModule) -> None:
        clock, norms = module.clock, module.grad_norms()
        for step in self._skipped.count(norms, clock):
            self._display.note(f"step {step} skipped: its gradient was not finite")
        loss, speed = module.mean_loss(), self._lap.tokens_per_second(clock.tokens)
        row = {
            names.TRAIN_LOSS: loss,
            names.TRAIN_TOKENS: clock.tokens,
            names.LEARNING_RATE: module.learning_rate,
            names.GRAD_NORM: norms[-1] if math.isfinite(norms[-1]) else None,
            names.SKIPPED_STEPS: self._skipped.total or None,
            names.TOKENS_PER_SEC: round(speed, 1),
            names.MFU: speed * clock.flops / clock.tokens / self._peak_flops if self._peak_flops else None,
        }
        self._rows.write(clock, {name: value for name, value in row.items() if value is not None})
        self._display.update(clock.step, math.nan if loss is None else loss, speed)

    def _validate(self, module: PretrainModule, columns: Mapping[str, Any]) -> None:
        self._watchdog.heartbeat("validation")
        found = self._both(self._validation.measure)
        losses = [
            _finite(found[name], module.clock.step) for name in (names.VAL_LOSS, names.VAL_AVG_LOSS) if name in found
        ]
        self._rows.write(module.clock, {**found, **columns})
        shown = ", of the average ".join(f"{loss:.4f}" for loss in losses)
        self._display.note(f"validation at {module.clock.tokens:,} tokens: loss {shown}")

    def _probe(self, module: PretrainModule, before: int) -> None:
        """A row of each probe that is due between so many tokens and now, or at the end.

        What a probe draws at random, shapes it needs once, and the time it takes are kept from training.
        """
        clock, heartbeat = module.clock, self._watchdog.heartbeat
        last = self._plan.steps_from(clock.tokens) == 0
        due = [probe for probe in self._probes if last or _crossed(before, clock.tokens, probe.every_tokens)]
        if not due:
            return
        clock.stop()
        for probe in due:
            measure = partial(probe.measure, module, heartbeat)
            with isolate_rng(), torch.compiler.set_stance("force_eager"):
                found = self._both(measure, probe.of_average)
            self._rows.write(clock, found)
            shown = [f"{name} {found[name]:.4f}" for name in probe.shown if name in found]
            self._display.note(f"{probe.name} at {clock.tokens:,} tokens: {', '.join(shown)}")
        clock.start()

    def _both(self, measure: Callable[[bool], dict[str, float]], average_too: bool = True) -> dict[str, float]:
        """What is measured on the live weights, and on the average where there is one; called with whether it is."""
        found = measure(False)
        if average_too and self._average is not None and self._average.ready:
            with self._average.in_model():
                found |= measure(True)
        return found

    def _save(self, kind: str, trainer: L.Trainer, module: PretrainModule) -> None:
        self._watchdog.heartbeat("a checkpoint")
        self._checkpoints.save(
            kind,
            module.model,
            trainer.optimizers[0],
            module.clock,
            metrics_bytes=self._rows.size_bytes,
            skipped=self._skipped.total,
            average=self._average,
        )

    def _give_way(self, module: PretrainModule) -> None:
        self._checkpoints.finish()
        told = self._preemption.signal_name or "a signal to another rank"
        saved = self._plan.checkpoint.every_tokens is not None
        raise PreemptedError(
            f"stopped by {told} at {module.clock.tokens:,} tokens, {'with' if saved else 'without'} a checkpoint. "
            "The same command continues the run."
        )

    def _pause(self, action: Callable[[], None]) -> None:
        started = time.perf_counter()
        action()
        self._lap.leave_out(time.perf_counter() - started)


def _crossed(before: int, now: int, every: int) -> bool:
    return before // every < now // every


def _finite(loss: float, step: int) -> float:
    if math.isfinite(loss):
        return loss
    raise DivergedError(
        f"the validation loss is {loss} at step {step}. Starting again would end the same way: lower optimizer.lr, "
        "lengthen schedule.warmup_tokens, or keep optimizer.max_grad_norm above 0."
    )


def _warm_up(trainer: L.Trainer, module: PretrainModule, sizes: Batch) -> None:
    """Compile what training and validation run, at every shape they meet; the gradients are thrown away."""
    batch = torch.zeros(sizes.micro_batch, sizes.sequence_length + 1, dtype=torch.int64, device=module.device)
    with torch.random.fork_rng([module.device] if module.device.type == "cuda" else []):
        trainer.strategy.training_step(batch, 0).backward()
    trainer.optimizers[0].zero_grad()
    module.mean_loss()
    shapes = {len(batch): batch for batch in trainer.datamodule.val_dataloader()}
    module.validation_losses(shapes.values(), passes=2)  # whole batches, and what is left of the windows
