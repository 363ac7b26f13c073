"""One fit: from a model and a plan to trained weights and a clock."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import lightning.pytorch as L
import torch
from torch import Tensor

from grow.analysis.analyze_run import forget_after
from grow.averaging.average import new_average
from grow.common import metric_names as names
from grow.common.clock import Clock
from grow.common.gpus import peak_flops
from grow.data.data_module import TokenDataModule
from grow.data.digest_check import DigestCheck
from grow.families.build import parameter_count
from grow.loggers.views import Views
from grow.training.checkpoints.checkpoint_writer import CheckpointWriter
from grow.training.checkpoints.fragments import Fragment
from grow.training.engine.trainer import build_module, build_trainer
from grow.training.loop.callback import LoopCallback
from grow.training.loop.metrics import MetricsFile
from grow.training.loop.preemption import Preemption
from grow.training.loop.probe import Probe
from grow.training.loop.progress import ProgressDisplay
from grow.training.loop.recorder import Recorder
from grow.training.loop.restore import Resume
from grow.training.loop.skipped import SkippedSteps
from grow.training.loop.watchdog import Watchdog
from grow.training.plan import Plan
from grow.training.run_directory import RunDirectory
from grow.training.start import Start
from grow.training.step.module import PretrainModule
from grow.training.step.teacher import Teaching
from grow.training.step.trainable import TrainableSet


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """Result of a run."""

    clock: Clock
    weights: Mapping[str, Tensor] | None
    """Final weights in float32 by parameter name; None on ranks other than 0."""
    averaged: Mapping[str, Tensor] | None
    """Averaged weights in the same form; None also where nothing was averaged."""


def fit(
    start: Start,
    plan: Plan,
    device: torch.device,
    run: RunDirectory,
    data: Callable[..., TokenDataModule],
    callbacks: Sequence[L.Callback] = (),
    views: Views | None = None,
    probes: Sequence[Probe] = (),
    teaching: Teaching | None = None,
) -> Trained:
    """Train a model to the end of its run.

    Args:
        start: Model to train, and the checkpoint it continues from.
        plan: How to train it.
        device: Device of this rank.
        run: Directory for metrics and checkpoints.
        data: Makes the data module; takes `start_sequence`.
        callbacks: Further callbacks of Lightning's, called after Grow's own.
        views: Views of the rows of metrics.jsonl.
        probes: Further measurements, in this order.
        teaching: Teacher that the training loss is mixed with; None for next-token training.

    Raises:
        GrowthError: trainable=new_layers, but the growth added no layer.
        DivergedError: loss or gradient are no longer finite.
        PreemptedError: a signal preempted the run; a checkpoint was written.
        CheckpointError: a checkpoint could not be written.
        KeyboardInterrupt: the user interrupted the run.
    """
    trainable = TrainableSet(
        start.model,
        plan.trainable,
        seed=plan.seed,
        sequence_length=plan.batch.sequence_length,
        new_layers=start.new_layers,
    )
    clock = start_clock(start, plan, trainable)
    steps = plan.steps_from(clock.tokens)
    if steps == 0:  # stopped between its last step and its export
        return _as_saved(start, plan, clock, run)
    if plan.trainer.threads is not None:
        torch.set_num_threads(plan.trainer.threads)
    if plan.ranks.is_first:
        forget_after(run.path, clock.tokens)
    torch.manual_seed(plan.seed * 1_000_003 + plan.ranks.rank)  # for dropout; weights and data order have their own
    module = build_module(start.model, plan, clock, start.input_copies, trainable, teaching)
    batches = data(start_sequence=clock.tokens // plan.batch.sequence_length)
    loop = _loop_callback(start, plan, module, batches, device, run, views, probes)
    parameters = parameter_count(start.model)
    trainer = build_trainer(plan, device, parameters=parameters, steps=steps, callbacks=[loop, *callbacks])
    try:
        trainer.fit(module, datamodule=batches)
    except SystemExit:  # Lightning turns an interrupt into an exit of its own
        raise KeyboardInterrupt from None
    return Trained(clock=clock, weights=loop.weights, averaged=loop.averaged_weights)


def _as_saved(start: Start, plan: Plan, clock: Clock, run: RunDirectory) -> Trained:
    """Return weights and average as the run's last checkpoint holds them."""
    if not plan.ranks.is_first:
        return Trained(clock=clock, weights=None, averaged=None)
    weights = {name: parameter.detach() for name, parameter in start.model.named_parameters()}
    averaged = None
    if plan.averaging is not None and start.checkpoint is not None:
        average = new_average(plan.averaging, run.window(plan.ranks.rank))
        wholes = [Fragment(name=name, start=0, values=value.view(-1), moments={}) for name, value in weights.items()]
        start.checkpoint.restore_average(average, wholes)
        if average.ready:
            averaged = {name: mean.view(weights[name].shape) for name, mean in average.means()}
    return Trained(clock=clock, weights=weights, averaged=averaged)


def start_clock(start: Start, plan: Plan, trainable: TrainableSet) -> Clock:
    """Return the run's clock, set to where an earlier start of the run ended."""
    state = start.checkpoint.state if start.checkpoint else None
    return Clock(
        tokens_per_step=plan.batch.tokens,
        flops_per_token=trainable.flops_per_token(state.step if state else 0),
        tokens=state.tokens if state else 0,
        flops=state.flops if state else 0,
        step=state.step if state else 0,
        seconds_before=state.seconds if state else 0.0,
    )


def peak_of_all(plan: Plan, device: torch.device) -> float | None:
    """Return the bfloat16 peak of all ranks' devices together in FLOP/s; None where it is not known or not used."""
    if device.type != "cuda" or plan.trainer.precision == "fp32":
        return None
    peak = peak_flops(torch.cuda.get_device_name(device))
    return None if peak is None else peak * plan.ranks.world_size


def _loop_callback(
    start: Start,
    plan: Plan,
    module: PretrainModule,
    data: TokenDataModule,
    device: torch.device,
    run: RunDirectory,
    views: Views | None,
    probes: Sequence[Probe],
) -> LoopCallback:
    state = start.checkpoint.state if start.checkpoint else None
    rank, timeout_s, clock = plan.ranks.rank, plan.strategy.timeout_s, module.clock
    sequences = plan.steps_from(clock.tokens) * plan.batch.tokens // plan.batch.sequence_length
    watchdog = Watchdog(timeout_s=timeout_s, report=run.path / "hangs" / f"rank-{rank:05}.txt", rank=rank)
    recorder = Recorder(
        module=module,
        rows=MetricsFile(run.metrics if plan.ranks.is_first else None, state.metrics_bytes if state else 0, views),
        display=ProgressDisplay(clock.step + plan.steps_from(clock.tokens), shown=plan.ranks.is_first),
        skipped=SkippedSteps(
            limit=plan.trainer.max_skipped_steps, batch=plan.batch, run=run.path, total=state.skipped if state else 0
        ),
        probes=probes,
        watchdog=watchdog,
        peak_flops=peak_of_all(plan, device),
        read_columns=data.read_columns,
    )
    return LoopCallback(
        plan=plan,
        module=module,
        data=data,
        resume=Resume(start, rank, keep_masters=plan.keeps_bf16_weights),
        checkpoints=CheckpointWriter(
            directory=run.checkpoints,
            ranks=plan.ranks,
            keep_last=plan.checkpoint.keep_last,
            keep_windows=plan.checkpoint.permanent_windows,
            background=plan.checkpoint.background,
            timeout_s=timeout_s,
            sequence_length=plan.batch.sequence_length,
            input_copies=start.input_copies,
            records=(run.metrics, run.record, run.growth),
        ),
        digests=DigestCheck(data.shards, data.reading_order(sequences)[rank :: plan.ranks.world_size]),
        preemption=Preemption(),
        watchdog=watchdog,
        recorder=recorder,
        window=run.window(rank),
        first_row={} if start.grown is None else {names.MAX_LOGIT_DIFF: start.grown.max_logit_diff},
    )
