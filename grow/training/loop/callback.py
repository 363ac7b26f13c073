"""Decides between two optimizer steps what is due: a row, validation, probes, a checkpoint, stopping."""

import gc
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from torch import Tensor

from grow.averaging.average import new_average
from grow.common.errors import DataError, PreemptedError
from grow.data.data_module import TokenDataModule
from grow.data.digest_check import DigestCheck
from grow.distributed.processes import all_agree, gather
from grow.training.checkpoints.checkpoint_writer import CheckpointWriter
from grow.training.checkpoints.fragments import full_weights, kept_in_shards
from grow.training.checkpoints.run_average import RunAverage
from grow.training.checkpoints.run_state import PREEMPTION, ROLLING
from grow.training.engine.compilation import warm_up
from grow.training.engine.readback import check_engine
from grow.training.loop.preemption import Preemption
from grow.training.loop.recorder import Recorder, crossed
from grow.training.loop.restore import Resume
from grow.training.loop.validation import Validation
from grow.training.loop.watchdog import Watchdog
from grow.training.plan import Plan
from grow.training.step.module import PretrainModule


class LoopCallback(L.Callback):
    """Logs, validates, probes and saves at the steps where that is due. Lightning calls its hooks.

    Under several ranks every decision depends on the clock or on reduced values, so all ranks take it together.

    Args:
        plan: Cadences and length of the run.
        module: Module that Lightning trains.
        data: Batches of this rank.
        resume: Puts a checkpoint's state, or exact float32 masters, into the engine.
        checkpoints: Writer of the run's checkpoints.
        digests: Compares this rank's part of the shards while it trains.
        preemption: Listens for the signals by which a system preempts a job.
        watchdog: Gets a heartbeat before each slow operation.
        recorder: Measures, and writes the rows of metrics.jsonl.
        window: Directory for the snapshots of averaging.storage=disk, private to this rank.
        first_row: Columns of the first row besides its validation losses.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        module: PretrainModule,
        data: TokenDataModule,
        resume: Resume,
        checkpoints: CheckpointWriter,
        digests: DigestCheck,
        preemption: Preemption,
        watchdog: Watchdog,
        recorder: Recorder,
        window: Path,
        first_row: Mapping[str, Any],
    ) -> None:
        self._plan, self._module, self._data = plan, module, data
        self._resume, self._checkpoints = resume, checkpoints
        self._digests, self._first_tokens = digests, module.clock.tokens
        self._preemption, self._watchdog, self._recorder = preemption, watchdog, recorder
        self._window, self._first_row = window, first_row
        self._seen_tokens = 0
        self._average: RunAverage | None = None
        self.weights: Mapping[str, Tensor] | None = None
        """Trained float32 weights, on rank 0, at the end of training."""
        self.averaged_weights: Mapping[str, Tensor] | None = None
        """Average of the weights, on rank 0, where there is one."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compile, restore, start the clock, and measure the model as it starts. Runs once the engine is set up."""
        clock = self._module.clock
        check_engine(trainer, self._plan)
        self._preemption.start()
        self._watchdog.start()
        self._digests.start()
        if self._plan.trainer.compile != "none" and kept_in_shards(self._module.model) != "zero3":  # its engine gathers
            warm_up(trainer, self._module, self._data, self._plan.batch)
        if self._plan.averaging is not None:
            average = new_average(self._plan.averaging, self._window, all_agree)
            self._average = RunAverage(average, self._module.model, trainer.optimizers[0])
        self._resume.restore(self._module.model, trainer.optimizers[0], self._average)
        validation = Validation(self._data, self._module)
        gc.collect()
        gc.freeze()  # what exists now lives as long as the run, so later collections skip it
        clock.start()
        self._recorder.start(validation, self._average)
        self._refuse_damaged_data()
        if self._resume.is_fresh:
            if validation.without_bytes is not None:
                self._recorder.display.note(f"no bits per byte: {validation.without_bytes}")
            self._recorder.validate(self._first_row)
        # A checkpoint is written before the probes of its step, so a resumed run takes those first.
        self._probe(clock.tokens - clock.tokens_per_step)
        self._seen_tokens = clock.tokens
        self._recorder.start_lap()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Tensor, batch_idx: int
    ) -> None:
        """Do what is due, in an order that keeps a checkpoint's metrics complete. Runs after every micro-batch."""
        before, now, step = self._seen_tokens, self._module.clock.tokens, self._module.clock.step
        if before == now:
            return  # in the middle of accumulation
        self._seen_tokens = now
        self._recorder.display.advance(step)
        last = self._plan.steps_from(now) == 0
        self._checkpoints.raise_failure()
        if self._average is not None and self._average.due(step):
            self._checkpoints.wait()  # it may still be writing the snapshots that this one pushes out
            self._average.push(step)
        preempted = self._preemption.agreed() and not last
        kind = self._checkpoint_kind(before, now, last=last, preempted=preempted)
        if last or kind is not None or step % self._plan.trainer.log_every_steps == 0:
            not_compared = self._refuse_damaged_data()
            if last and not_compared:
                self._recorder.display.note(f"warning: {not_compared} shards were not yet compared with their digests")
            self._recorder.log_training()
        if last or crossed(before, now, self._plan.trainer.val_every_tokens):
            with self._recorder.outside_lap():
                self._recorder.validate()
        if last:  # before the checkpoint, as nothing continues from the last one
            self._probe(before)
        saves = kind is not None and self._recorder.skipped.in_a_row == 0  # else the weights may not be finite
        if kind is not None and saves:
            self._save(kind, trainer)
        if preempted:
            self._stop_when_preempted(saved=saves)
        if not last:
            self._probe(before)
        self._watchdog.heartbeat(f"step {step + 1}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait for the last checkpoint and collect the weights. Runs after the last step."""
        self._module.clock.stop()
        self._watchdog.heartbeat("the last checkpoint")
        self._checkpoints.finish()
        self.weights = full_weights(self._module.model)
        if self._average is not None and self._average.ready:
            self.averaged_weights = self._average.full()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Wait until a checkpoint in progress is complete; its failure must not hide what ended the run."""
        with suppress(Exception):
            self._checkpoints.wait()
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Release threads, signals, display and file. Runs at the very end, and after an exception."""
        self._watchdog.stop()
        self._digests.stop()
        self._preemption.stop()
        self._recorder.close()
        gc.unfreeze()

    def _refuse_damaged_data(self) -> int:
        """Raise what any rank found damaged, on all ranks; return how many shards were not compared yet.

        Raises:
            DataError: a shard is not what its manifest says.
        """
        found = gather((self._digests.failure, self._digests.left))
        for failure, _ in found:
            if failure is not None:
                raise DataError(
                    f"{failure} Checkpoints after {self._first_tokens:,} tokens may have learned from the damaged file."
                )
        return sum(left for _, left in found)

    def _checkpoint_kind(self, before: int, now: int, *, last: bool, preempted: bool) -> str | None:
        """Return the kind of the checkpoint that is due, or None."""
        kind = self._plan.checkpoint.due(before, now)
        if kind is None and self._plan.checkpoint.every_tokens is not None and (last or preempted):
            return ROLLING if last else PREEMPTION
        return kind

    def _probe(self, before: int) -> None:
        with self._recorder.outside_lap():
            self._recorder.probe(before, last=self._plan.steps_from(self._module.clock.tokens) == 0)

    def _save(self, kind: str, trainer: L.Trainer) -> None:
        self._watchdog.heartbeat("a checkpoint")
        with self._recorder.outside_lap():
            self._checkpoints.save(
                kind,
                self._module.model,
                trainer.optimizers[0],
                self._module.clock,
                metrics_bytes=self._recorder.rows.size_bytes,
                skipped=self._recorder.skipped.total,
                average=self._average,
            )

    def _stop_when_preempted(self, *, saved: bool) -> None:
        """Raise PreemptedError once every rank's checkpoint is on disk."""
        self._checkpoints.finish()
        signal = self._preemption.signal_name or "a signal to another rank"
        raise PreemptedError(
            f"stopped by {signal} at {self._module.clock.tokens:,} tokens, {'with' if saved else 'without'} a "
            "checkpoint. The same command continues the run."
        )
