"""Estimates what a configured run will need: parameters, FLOPs, memory of a GPU by part, hours and disk."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from grow.averaging.cadence import AveragingPlan, resolve
from grow.averaging.settings import AveragingSettings
from grow.data.settings import DataSettings
from grow.distributed.settings import StrategySettings
from grow.estimate.closed_form import (
    Counts,
    MemoryTable,
    disk,
    grace_seconds,
    hours,
    memory_table,
    require_known_activations,
)
from grow.estimate.counts import count
from grow.estimate.settings import EstimateSettings, GpuFigures
from grow.training.settings import (
    CheckpointSettings,
    ObjectiveSettings,
    ScheduleSettings,
    TrainableSettings,
    TrainerSettings,
)
from grow.training.step.objective import rows_per_chunk

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfiguredRun:
    """The part of a run's configuration that its needs follow from."""

    name: str
    """Name of the model."""
    architecture: "PreTrainedConfig"
    data: DataSettings
    trainer: TrainerSettings
    objective: ObjectiveSettings
    strategy: StrategySettings
    trainable: TrainableSettings
    checkpoint: CheckpointSettings
    schedule: ScheduleSettings
    averaging: AveragingSettings

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return math.ceil(self.trainer.max_tokens / self.trainer.tokens_per_step)

    def averaging_plan(self) -> AveragingPlan | None:
        """Return the steps of the run's average; None where nothing is averaged.

        Raises:
            ConfigError: the run is too short for its average.
        """
        return resolve(
            self.averaging,
            total_steps=self.steps,
            tokens_per_step=self.trainer.tokens_per_step,
            warmup_tokens=self.schedule.warmup(self.trainer.max_tokens),
        )

    @property
    def gpus(self) -> int:
        """GPUs that share the run."""
        return 1 if self.strategy.kind == "single" else self.strategy.devices or 1

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch."""
        return self.trainer.micro_batch * self.data.sequence_length

    def notes(self) -> list[str]:
        """Return what a reader of the estimate should know, one sentence each."""
        notes = []
        if self.trainer.precision == "fp32":
            notes.append("the peak is bfloat16's: at trainer.precision=fp32 expect a much lower estimate.mfu.")
        if self.trainable.kind != "all":
            notes.append(f"trainable={self.trainable.name} needs less: all numbers are of the whole model, trained.")
        if self.objective.teacher is not None:
            notes.append("the teacher's memory and FLOPs are not counted: add those of its forward pass.")
        if self.gpus == 1 and self.strategy.kind != "single":
            notes.append(
                f"strategy={self.strategy.name} on one GPU is the plain strategy; strategy.devices=N for more."
            )
        if self.strategy.kind == "single" and (self.strategy.devices or 1) > 1:
            notes.append("strategy=single trains on one GPU, whatever strategy.devices says.")
        if self.trainer.tokens_per_step % (self.tokens * self.gpus):
            notes.append(
                f"train.py would refuse trainer.tokens_per_step={self.trainer.tokens_per_step:,}: it is no multiple of "
                f"micro-batch x sequence x GPUs = {self.tokens * self.gpus:,}."
            )
        return notes


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEstimate:
    """What a run needs, and what it was reckoned from."""

    run: ConfiguredRun
    counts: Counts
    gpu: GpuFigures
    loss_chunk_rows: int
    """Rows of logits that exist at one time."""
    memory: MemoryTable
    """Memory of one GPU for every strategy and precision."""
    flops: float
    """FLOPs of the whole run."""
    mfu: float
    """Fraction of the peak that training reaches."""
    hours: float
    disk_bytes: dict[str, int]
    grace_s: int
    """Seconds that the run needs to save and exit when it is told to go."""

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.run.gpus

    def fits(self) -> dict[str, dict[str, bool | None]]:
        """Return whether one GPU has the memory, for every strategy and precision; None where train.py refuses both."""
        usable = self.gpu.usable_bytes
        return {
            kind: {precision: None if memory is None else memory.total <= usable for precision, memory in row.items()}
            for kind, row in self.memory.items()
        }

    def as_json(self) -> dict[str, Any]:
        """Return all numbers as plain data."""
        return {
            "model": {**asdict(self.counts), "body": self.counts.body},
            "batch": {
                "gpus": self.run.gpus,
                "tokens_per_micro_batch": self.run.tokens,
                "loss_chunk_rows": self.loss_chunk_rows,
            },
            "gpu": asdict(self.gpu),
            "memory_bytes": {
                kind: {
                    precision: memory and {**asdict(memory), "total": memory.total} for precision, memory in row.items()
                }
                for kind, row in self.memory.items()
            },
            "fits": self.fits(),
            "time": {"flops": self.flops, "mfu": self.mfu, "hours": self.hours, "gpu_hours": self.gpu_hours},
            "disk_bytes": self.disk_bytes,
            "grace_s": self.grace_s,
            "notes": self.run.notes(),
        }


def estimate_run(run: ConfiguredRun, machine: EstimateSettings) -> RunEstimate:
    """Count the model on the meta device and reckon what the run needs on a machine.

    Raises:
        ConfigError: the GPU is not known, or the family's activations are not.
    """
    gpu = machine.find_gpu(_own_gpu())
    require_known_activations(run.architecture.model_type)
    counts = count(run.architecture, run.data.sequence_length)
    rows = run.objective.chunk_rows
    rows = rows_per_chunk(run.tokens, counts.vocabulary, "cuda") if rows is None else min(rows, run.tokens)
    flops = counts.flops_per_token * run.trainer.max_tokens
    duration = hours(flops, gpus=run.gpus, peak_flops=gpu.peak_flops, mfu=machine.mfu)
    sizes = disk(counts.parameters, run.checkpoint, run.trainer.max_tokens, run.averaging_plan())
    return RunEstimate(
        run=run,
        counts=counts,
        gpu=gpu,
        loss_chunk_rows=rows,
        memory=memory_table(counts, gpus=run.gpus, tokens=run.tokens, rows=rows),
        flops=flops,
        mfu=machine.mfu,
        hours=duration,
        disk_bytes=sizes,
        grace_s=grace_seconds(sizes["checkpoint"], duration * 3600 / run.steps, machine.disk_gb_per_s * 1e9),
    )


def _own_gpu() -> tuple[str, float] | None:
    """Return name and bytes of memory of this machine's first GPU; None where it has none."""
    import torch  # which counting the model imports anyway

    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name(0), float(torch.cuda.get_device_properties(0).total_memory)
