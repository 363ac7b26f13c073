"""Configuration of the averaging package. Imports nothing heavy."""

from dataclasses import dataclass, field

from grow.common.checks import at_least_one, not_empty, one_of
from grow.common.errors import ConfigError

KINDS = ("none", "lawa", "ema", "swa", "wsm")
WINDOWS = ("lawa", "wsm")
CURVES = ("linear", "cosine", "minus_sqrt")
_START = ("start_tokens", "start_fraction")
_TAKES = {
    "none": (),
    "lawa": ("k", "every_steps", "horizon", "min_snapshots", *_START),
    "wsm": ("k", "every_steps", "horizon", "min_snapshots", "curve", *_START),
    "ema": ("k", "every_steps", "horizon", "min_snapshots", "decay", *_START),
    "swa": ("every_steps", "min_snapshots", *_START),
}


@dataclass(kw_only=True, slots=True)
class AveragingSettings:
    """Which snapshots of the weights are averaged, and how. Each kind accepts only the keys that it uses."""

    name: str
    kind: str
    """none; lawa: uniform mean of the k latest snapshots; wsm: the same with the weights of a decay `curve`; ema:
    exponential; swa: uniform mean of every snapshot since the start."""
    reference: str = ""
    """Paper the averaging comes from."""
    k: int | None = None
    """Snapshots in the window. ema with decay null: snapshots in the window of the same mean age."""
    every_steps: int | None = None
    """Optimizer steps between two snapshots (the papers' nu); null: see `horizon`. swa: null is every step."""
    horizon: float | None = None
    """Used where every_steps is null: fraction of the run that the window spans, k snapshots of it."""
    start_tokens: int | None = None
    """No snapshot before this many tokens; null: see `start_fraction`."""
    start_fraction: float | None = None
    """Used where start_tokens is null: fraction of the run before the first snapshot; null: the schedule's warm-up."""
    min_snapshots: int | None = None
    """Snapshots before there is an average; null: k in a window (the papers' own rule), 1 without one."""
    decay: float | None = None
    """ema: factor of the old average at each snapshot; null: (k - 1) / (k + 1)."""
    curve: str | None = None
    """wsm: the learning-rate decay that the weights emulate: linear (a uniform mean), cosine or minus_sqrt."""
    storage: str = "host"
    """Where a window keeps its snapshots in a run: host (memory, pinned where they come from a GPU) or disk."""
    on_growth: str = "reset"
    """For a run that grows from a checkpoint with a window: reset starts with an empty window; map grows its snapshots
    as the weights are grown."""

    def __post_init__(self) -> None:
        one_of("averaging.kind", self.kind, KINDS)
        one_of("averaging.storage", self.storage, ("host", "disk"))
        one_of("averaging.on_growth", self.on_growth, ("reset", "map"))
        for key in dict.fromkeys(key for keys in _TAKES.values() for key in keys):
            if key not in _TAKES[self.kind] and getattr(self, key) is not None:
                raise ConfigError(
                    f"averaging.{key}={getattr(self, key)}: averaging.kind={self.kind} takes no such key. It takes: "
                    f"{', '.join(_TAKES[self.kind]) or 'none'}."
                )
        for key, value, only in (("storage", self.storage, "host"), ("on_growth", self.on_growth, "reset")):
            if self.kind not in WINDOWS and value != only:
                raise ConfigError(f"averaging.{key}={value}: averaging.kind={self.kind} has no window. Use {only}.")
        self._check_values()

    def _check_values(self) -> None:
        for key in ("k", "every_steps", "min_snapshots"):
            at_least_one(f"averaging.{key}", getattr(self, key))
        for key in ("horizon", "start_fraction"):
            share = getattr(self, key)
            if share is not None and not 0 <= share <= 1:
                raise ConfigError(f"averaging.{key}={share}: expected a fraction of the run between 0 and 1.")
        if self.horizon == 0:
            raise ConfigError("averaging.horizon=0: expected a fraction of the run above 0.")
        if (self.start_tokens or 0) < 0:
            raise ConfigError(f"averaging.start_tokens={self.start_tokens}: expected 0 or more tokens, or null.")
        if self.kind in WINDOWS and self.k is None:
            raise ConfigError(
                f"averaging.k: averaging.kind={self.kind} needs a number of snapshots. Add averaging.k=5."
            )
        if self.kind in WINDOWS and (self.min_snapshots or 0) > (self.k or 0):
            raise ConfigError(
                f"averaging.min_snapshots={self.min_snapshots}: the window never holds more than averaging.k={self.k}."
            )
        if self.kind == "ema" and self.decay is None and self.k is None:
            raise ConfigError("averaging.decay, averaging.k: averaging.kind=ema needs one of the two.")
        if self.decay is not None and not 0 <= self.decay < 1:
            raise ConfigError(f"averaging.decay={self.decay}: expected a number in [0, 1).")
        if self.kind == "wsm":
            one_of("averaging.curve", str(self.curve), CURVES)


@dataclass(kw_only=True, slots=True)
class AverageCheckpointsConfig:
    """scripts/average_checkpoints.py: checkpoints in, one averaged model directory out."""

    checkpoints: list[str]
    """Run directories, model directories, hub ids (NAME@REVISION), .safetensors files, .pt state dicts."""
    output: str
    averaging: AveragingSettings

    def __post_init__(self) -> None:
        not_empty("checkpoints", self.checkpoints)
        if self.averaging.kind == "none":
            raise ConfigError("averaging=none: nothing to do. Choose averaging=lawa, ema, swa or wsm.")


@dataclass(kw_only=True, slots=True)
class SweepAveragesConfig:
    """scripts/sweep_averages.py: a run's checkpoints in, validation loss of every window over them out."""

    run: str
    """A run directory that kept its checkpoints (checkpoint.keep_last)."""
    output: str
    k: list[int] = field(default_factory=lambda: [1, 2, 3, 5, 10])
    """Windows to try; 1 is the live model, which is always measured."""
    every_steps: list[int] | None = None
    """Spacings to try, multiples of the checkpoints' own; null tries that one, twice it and four times it."""
    val_tokens: int | None = None
    """Tokens of the held-out split to measure on; null takes the run's own."""
    micro_batch: int = 8
    """Sequences of one forward pass."""

    def __post_init__(self) -> None:
        not_empty("k", self.k)
        for key in ("k", "every_steps"):
            for value in getattr(self, key) or ():
                at_least_one(key, value)
        at_least_one("micro_batch", self.micro_batch)
        at_least_one("val_tokens", self.val_tokens)
