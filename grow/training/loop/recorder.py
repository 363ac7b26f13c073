"""Measures the model between two steps, and records the results: rows of metrics.jsonl and lines on the display."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from grow.common import metric_names as names
from grow.common.errors import DivergedError
from grow.training.checkpoints.run_average import RunAverage
from grow.training.loop.metrics import Lap, MetricsFile
from grow.training.loop.probe import Probe
from grow.training.loop.progress import ProgressDisplay
from grow.training.loop.skipped import SkippedSteps
from grow.training.loop.validation import Validation
from grow.training.loop.watchdog import Watchdog
from grow.training.step.module import PretrainModule


@dataclass(kw_only=True, slots=True)
class Recorder:
    """Writes one row for each training log, validation and probe. All ranks call its methods together."""

    module: PretrainModule
    rows: MetricsFile
    display: ProgressDisplay
    skipped: SkippedSteps
    probes: Sequence[Probe]
    """Further measurements, in this order."""
    watchdog: Watchdog
    peak_flops: float | None
    """Peak FLOP/s of all ranks' devices together, where it is known."""
    read_columns: Callable[[int], dict[str, float]]
    """Returns what was read of each source of the data after some tokens, by metric name."""
    validation: Validation | None = None
    average: RunAverage | None = None
    """Average of the weights, which is measured besides the live weights."""
    _lap: Lap = field(default_factory=lambda: Lap(0))

    def start(self, validation: Validation, average: RunAverage | None) -> None:
        """Show the display; called once the engine holds the weights that training starts from."""
        self.validation, self.average = validation, average
        self.display.start(self.module.clock.step)

    def start_lap(self) -> None:
        """Measure the speed from here on."""
        self._lap = Lap(self.module.clock.tokens)

    @contextmanager
    def outside_lap(self) -> Iterator[None]:
        """Leave the time of a `with` block out of the speed."""
        started = time.perf_counter()
        yield
        self._lap.leave_out(time.perf_counter() - started)

    def log_training(self) -> None:
        """Write a row of what the steps since the last row did."""
        clock, norms = self.module.clock, self.module.grad_norms()
        for step in self.skipped.count(norms, clock):
            self.display.note(f"step {step} skipped: its gradient was not finite")
        loss, speed = self.module.mean_loss(), self._lap.tokens_per_second(clock.tokens)
        row: dict[str, float | None] = {
            names.TRAIN_LOSS: loss,
            names.TRAIN_TOKENS: clock.tokens,
            **self._taught(),
            **self.module.routing_row(),
            names.LEARNING_RATE: self.module.learning_rate,
            names.GRAD_NORM: norms[-1] if math.isfinite(norms[-1]) else None,
            names.SKIPPED_STEPS: self.skipped.total or None,
            names.TOKENS_PER_SEC: round(speed, 1),
            names.MFU: speed * clock.flops / clock.tokens / self.peak_flops if self.peak_flops else None,
        }
        row |= self.read_columns(clock.tokens)
        self.rows.write(clock, {name: value for name, value in row.items() if value is not None})
        self.display.update(clock.step, math.nan if loss is None else loss, speed)

    def _taught(self) -> dict[str, float | None]:
        """Return the columns of a run that learns from a teacher; none where there is no teacher."""
        if self.module.last_alpha is None:
            return {}
        divergence, mixed = self.module.mean_taught()
        alpha = {names.INHERIT_ALPHA: self.module.last_alpha}
        return {**alpha, names.INHERIT_KL: divergence, names.INHERIT_LOSS: mixed}

    def validate(self, columns: Mapping[str, Any] | None = None) -> None:
        """Write a row of the validation losses, and of further columns.

        Raises:
            DivergedError: a loss is not finite.
        """
        assert self.validation is not None
        self.watchdog.heartbeat("validation")
        clock, found = self.module.clock, self._of_live_and_average(self.validation.measure)
        losses = [_finite(found[name], clock.step) for name in (names.VAL_LOSS, names.VAL_AVG_LOSS) if name in found]
        self.rows.write(clock, {**found, **(columns or {})})
        shown = ", of the average ".join(f"{loss:.4f}" for loss in losses)
        self.display.note(f"validation at {clock.tokens:,} tokens: loss {shown}")

    def probe(self, before: int, *, last: bool) -> None:
        """Write a row of each probe that is due between `before` tokens and now, or of all after the last step.

        Probes leave training as it was: random states are put back, nothing is compiled for the shapes of a probe, and
        the clock stands still.
        """
        clock = self.module.clock
        due = [probe for probe in self.probes if last or crossed(before, clock.tokens, probe.every_tokens)]
        if not due:
            return
        clock.stop()
        for probe in due:
            measure = partial(probe.measure, self.module, self.watchdog.heartbeat)
            with isolate_rng(), torch.compiler.set_stance("force_eager"):
                found = self._of_live_and_average(measure, probe.of_average)
            self.rows.write(clock, found)
            shown = [f"{name} {found[name]:.4f}" for name in probe.shown if name in found]
            self.display.note(f"{probe.name} at {clock.tokens:,} tokens: {', '.join(shown)}")
        clock.start()

    def close(self) -> None:
        """Stop the display and close the file of rows."""
        self.display.stop()
        self.rows.close()

    def _of_live_and_average(
        self, measure: Callable[[bool], dict[str, float]], average_too: bool = True
    ) -> dict[str, float]:
        """Measure the live weights, and the averaged ones where there are any.

        Args:
            measure: Measurement; its argument says whether the model holds averaged weights.
            average_too: Whether averaged weights are measured at all.
        """
        found = measure(False)
        if average_too and self.average is not None and self.average.ready:
            with self.average.in_model():
                found |= measure(True)
        return found


def crossed(before: int, now: int, every: int) -> bool:
    """Return whether a multiple of `every` lies above `before` and not above `now`."""
    return before // every < now // every


def _finite(loss: float, step: int) -> float:
    if math.isfinite(loss):
        return loss
    raise DivergedError(
        f"the validation loss is {loss} at step {step}. Starting again would end the same way: lower optimizer.lr, "
        "lengthen schedule.warmup_tokens, or keep optimizer.max_grad_norm above 0."
    )
