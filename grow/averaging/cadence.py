"""The steps at which a run takes snapshots of its weights, computed from settings and length before training."""

import math
from dataclasses import dataclass

from grow.averaging.settings import WINDOWS, AveragingSettings
from grow.averaging.weighting import Weighting, ema_decay, weighting
from grow.common.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class AveragingPlan:
    """The averaging of one run, in optimizer steps, which count from 1.

    Steps that are skipped for a gradient that is not finite count as well, as they do for checkpoints.
    """

    settings: AveragingSettings
    every_steps: int
    start_step: int
    """No snapshot is taken before this step."""
    min_snapshots: int
    total_steps: int

    @property
    def k(self) -> int | None:
        """Number of snapshots in the window; None where all since the start count."""
        return self.settings.k if self.settings.kind in WINDOWS else None

    def due(self, step: int) -> bool:
        """Return whether a snapshot is taken after this step."""
        return step >= max(self.start_step, 1) and step % self.every_steps == 0

    @property
    def first_snapshot_step(self) -> int:
        """Step of the first snapshot."""
        return max(math.ceil(self.start_step / self.every_steps), 1) * self.every_steps

    @property
    def first_average_step(self) -> int:
        """Step after which there is an average."""
        return self.first_snapshot_step + (self.min_snapshots - 1) * self.every_steps

    def weighting(self, snapshots: int) -> Weighting:
        """Return the weighting of this many snapshots."""
        return weighting(self.settings, snapshots)

    def held_bytes(self, elements: int, snapshots: int | None = None) -> int:
        """Return the bytes that a rank stores for its elements: float32 snapshots of a window, or one float64 total.

        Args:
            elements: Elements of the weights that the rank owns.
            snapshots: Snapshots taken so far; None reckons with a full window.
        """
        if self.k is None:
            return 8 * elements
        return 4 * elements * (self.k if snapshots is None else min(self.k, snapshots))

    def __str__(self) -> str:
        often = "every step" if self.every_steps == 1 else f"every {self.every_steps} steps"
        if self.k is not None:
            span = self.k * self.every_steps
            of = f"{self.k} snapshots, one {often}: {span} steps, {span / self.total_steps:.1%} of the run"
        elif self.settings.kind == "ema":
            of = f"decay {ema_decay(self.settings):.4g} {often}"
        else:
            of = f"all snapshots, one {often}"
        since = f"from step {self.first_snapshot_step}, average from {self.first_average_step}"
        return f"{self.settings.name}, {of}; {since}"


def resolve(
    settings: AveragingSettings, *, total_steps: int, tokens_per_step: int, warmup_tokens: float
) -> AveragingPlan | None:
    """Convert shares of a run and tokens into steps; return None where nothing is averaged.

    Args:
        settings: Settings of the averaging.
        total_steps: Optimizer steps of the whole run.
        tokens_per_step: Tokens of one optimizer step.
        warmup_tokens: Length of the schedule's warm-up in tokens.

    Raises:
        ConfigError: the window is longer than the run, or the run ends before its first average.
    """
    if settings.kind == "none":
        return None
    plan = AveragingPlan(
        settings=settings,
        every_steps=_every_steps(settings, total_steps),
        start_step=_start_step(settings, total_steps, tokens_per_step, warmup_tokens),
        min_snapshots=settings.min_snapshots or (settings.k if settings.kind in WINDOWS else 1) or 1,
        total_steps=total_steps,
    )
    if plan.k is not None and plan.k * plan.every_steps > total_steps:
        raise ConfigError(
            f"averaging.k={plan.k} snapshots every {plan.every_steps} steps span {plan.k * plan.every_steps} steps; "
            f"the run has {total_steps}. Lower averaging.k or averaging.every_steps, or lengthen trainer.max_tokens."
        )
    if plan.first_average_step > total_steps:
        raise ConfigError(
            f"averaging={settings.name}: the first average would be at step {plan.first_average_step} (snapshots from "
            f"step {plan.first_snapshot_step}, every {plan.every_steps}, at least {plan.min_snapshots}); the run has "
            f"{total_steps} steps. Lower averaging.every_steps, averaging.min_snapshots or averaging.start_fraction."
        )
    return plan


def _every_steps(settings: AveragingSettings, total_steps: int) -> int:
    if settings.every_steps is not None:
        return settings.every_steps
    if settings.kind == "swa":
        return 1
    if settings.horizon is None:
        raise ConfigError(
            f"averaging={settings.name}: expected averaging.every_steps=STEPS between two snapshots, or "
            "averaging.horizon=FRACTION of the run for all of them."
        )
    return max(round(settings.horizon * total_steps / _window(settings)), 1)


def _window(settings: AveragingSettings) -> float:
    """Return the snapshots in the window; for an exponential average, in the window with the same mean age."""
    if settings.kind in WINDOWS:
        return float(settings.k or 1)
    return (1 + ema_decay(settings)) / (1 - ema_decay(settings))


def _start_step(settings: AveragingSettings, total_steps: int, tokens_per_step: int, warmup_tokens: float) -> int:
    if settings.start_tokens is not None:
        return math.ceil(settings.start_tokens / tokens_per_step)
    if settings.start_fraction is not None:
        return math.ceil(settings.start_fraction * total_steps)
    return math.ceil(warmup_tokens / tokens_per_step)
