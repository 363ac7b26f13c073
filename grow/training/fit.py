"""One fit: a model and a plan in, a trained model and the time it took out."""

from collections.abc import Callable, Sequence

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from grow.common import metrics as names
from grow.common.clock import Clock
from grow.common.errors import PreemptedError
from grow.families.build import training_flops_per_token
from grow.training.checkpoint import CheckpointWriter
from grow.training.metrics import MetricsFile, peak_flops
from grow.training.milestones import Milestones
from grow.training.plan import Plan
from grow.training.progress import ProgressDisplay
from grow.training.run_directory import RunDirectory
from grow.training.start import Start
from grow.training.trainer import build_module, build_trainer


def fit(
    start: Start,
    plan: Plan,
    device: torch.device,
    run: RunDirectory,
    data: Callable[..., L.LightningDataModule],
    callbacks: Sequence[L.Callback] = (),
) -> Clock:
    """Train a model in place to the end of its run.

    Args:
        start: the model, and the checkpoint it continues from.
        plan: how to train it.
        device: of this rank.
        run: gets metrics and checkpoints.
        data: makes the data module, given `start_sequence`.
        callbacks: more of Lightning's, called after Grow's own.

    Returns:
        The run's clock at the end.

    Raises:
        DivergedError: a loss is no longer finite.
        PreemptedError: SIGTERM arrived; a checkpoint was written.
        KeyboardInterrupt: the user interrupted the run.
    """
    clock = start_clock(start, plan)
    steps = plan.total_steps - clock.tokens // plan.batch.tokens
    if steps == 0:  # stopped between its last step and its export
        return clock
    if plan.trainer.threads is not None:
        torch.set_num_threads(plan.trainer.threads)
    torch.manual_seed(plan.seed * 1_000_003 + plan.ranks.rank)  # for dropout; weights and data order have their own
    trainer = build_trainer(plan, device, steps=steps, callbacks=[_milestones(start, plan, device, run), *callbacks])
    module = build_module(start.model, plan, clock, start.input_copies)
    try:
        trainer.fit(module, datamodule=data(start_sequence=clock.tokens // plan.batch.sequence_length))
    except SIGTERMException:
        raise PreemptedError(f"{run.path}: stopped by SIGTERM at {clock.tokens:,} tokens. Run it again.") from None
    except SystemExit:  # Lightning turns an interrupt into an exit of its own
        raise KeyboardInterrupt from None
    return clock


def start_clock(start: Start, plan: Plan) -> Clock:
    """The run's clock, set to what an earlier start of the run left."""
    state = start.checkpoint.state if start.checkpoint else None
    return Clock(
        tokens_per_step=plan.batch.tokens,
        flops_per_token=training_flops_per_token(start.model, plan.batch.sequence_length),
        tokens=state.tokens if state else 0,
        seconds_before=state.seconds if state else 0.0,
    )


def _milestones(start: Start, plan: Plan, device: torch.device, run: RunDirectory) -> Milestones:
    keep_bytes = start.checkpoint.state.metrics_bytes if start.checkpoint else 0
    knows_peak = device.type == "cuda" and plan.trainer.precision == "bf16"
    return Milestones(
        plan=plan,
        checkpoints=CheckpointWriter(
            directory=run.checkpoints,
            keep_last=plan.checkpoint.keep_last,
            sequence_length=plan.batch.sequence_length,
            input_copies=start.input_copies,
        ),
        resumed=start.checkpoint,
        rows=MetricsFile(run.metrics if plan.ranks.is_first else None, keep_bytes),
        display=ProgressDisplay(plan.total_steps, shown=plan.ranks.is_first),
        first_row={} if start.max_logit_diff is None else {names.MAX_LOGIT_DIFF: start.max_logit_diff},
        peak_flops=peak_flops(torch.cuda.get_device_name(device)) if knows_peak else None,
    )
