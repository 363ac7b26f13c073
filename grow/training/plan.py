"""Plans a run from its settings and its processes, before anything heavy is imported."""

import math
from dataclasses import dataclass, replace

from grow.averaging.cadence import AveragingPlan, resolve
from grow.averaging.settings import AveragingSettings
from grow.common.errors import ConfigError
from grow.common.extras import require
from grow.distributed.ranks import Ranks
from grow.distributed.settings import SHARDED, StrategySettings
from grow.training.settings import (
    CheckpointSettings,
    ExpertsSettings,
    ObjectiveSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainableSettings,
    TrainerSettings,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """How the tokens of one optimizer step are divided: over ranks, then over micro-batches, then over sequences."""

    sequence_length: int
    """Tokens of one sequence."""
    micro_batch: int
    """Sequences of one micro-batch."""
    accumulation: int
    """Micro-batches that a rank computes for one optimizer step."""
    world_size: int
    """Number of ranks."""

    @classmethod
    def divide(cls, trainer: TrainerSettings, sequence_length: int, world_size: int) -> "Batch":
        """Compute how many micro-batches a rank accumulates.

        Raises:
            ConfigError: the tokens of a step do not divide, or validation has less than one sequence.
        """
        if trainer.val_tokens < sequence_length:
            raise ConfigError(
                f"trainer.val_tokens={trainer.val_tokens}: expected at least one sequence of {sequence_length} tokens."
            )
        micro_tokens = trainer.micro_batch * sequence_length * world_size
        if trainer.tokens_per_step % micro_tokens:
            raise ConfigError(
                f"trainer.tokens_per_step={trainer.tokens_per_step}: expected a multiple of trainer.micro_batch x "
                f"data.sequence_length x ranks = {trainer.micro_batch} x {sequence_length} x {world_size} = "
                f"{micro_tokens}. Nearest: {max(1, round(trainer.tokens_per_step / micro_tokens)) * micro_tokens}."
            )
        return cls(
            sequence_length=sequence_length,
            micro_batch=trainer.micro_batch,
            accumulation=trainer.tokens_per_step // micro_tokens,
            world_size=world_size,
        )

    @property
    def tokens(self) -> int:
        """Tokens of one optimizer step, over all ranks."""
        return self.sequence_length * self.micro_batch * self.accumulation * self.world_size

    def __str__(self) -> str:
        return (
            f"{self.tokens:,} tokens = {self.micro_batch} x {self.sequence_length} x {self.accumulation} micro-batches "
            f"x {self.world_size} rank{'s' if self.world_size > 1 else ''}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How a run trains, and where."""

    trainer: TrainerSettings
    trainable: TrainableSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    objective: ObjectiveSettings
    experts: ExpertsSettings
    checkpoint: CheckpointSettings
    strategy: StrategySettings
    averaging: AveragingPlan | None
    seed: int
    batch: Batch
    ranks: Ranks

    @property
    def is_distributed(self) -> bool:
        """Whether the strategy is used: a single process shards nothing, unless strategy.insist says so."""
        return self.ranks.world_size > 1 or (self.strategy.insist and self.strategy.kind in SHARDED)

    @property
    def keeps_bf16_weights(self) -> bool:
        """Whether the model itself is in bfloat16 and its float32 master weights are in ZeRO's shards."""
        return self.is_distributed and self.trainer.precision == "bf16_weights"

    @property
    def autocasts(self) -> bool:
        """Whether float32 weights are multiplied in bfloat16."""
        assert self.trainer.precision != "auto"  # `on` has resolved it
        return self.trainer.precision != "fp32" and not self.keeps_bf16_weights

    def on(self, device_type: str, begun_with: str | None = None) -> "Plan":
        """Return the plan for a kind of device: what trainer.precision=auto stands for there.

        Args:
            device_type: Kind of device: cuda or cpu.
            begun_with: Precision in which an earlier start of the run began, which auto keeps on any device.

        Raises:
            ConfigError: the strategy, or what is trained, does not fit the precision that the run began with.
        """
        trainer = with_precision(self.trainer, device_type, begun_with)
        _check_precision(trainer, self.strategy)
        _check_trainable(self.trainable, trainer, self.strategy)
        return replace(self, trainer=trainer)

    def steps_from(self, tokens: int) -> int:
        """Return how many optimizer steps remain after `tokens`."""
        return max(0, math.ceil((self.trainer.max_tokens - tokens) / self.batch.tokens))


def with_precision(trainer: TrainerSettings, device_type: str, begun_with: str | None = None) -> TrainerSettings:
    """Return the settings with auto resolved: the precision the run began with, else bf16 on a GPU, fp32 on a CPU."""
    if trainer.precision != "auto":
        return trainer
    return replace(trainer, precision=begun_with or ("bf16" if device_type == "cuda" else "fp32"))


def plan_run(
    *,
    trainer: TrainerSettings,
    trainable: TrainableSettings,
    optimizer: OptimizerSettings,
    schedule: ScheduleSettings,
    objective: ObjectiveSettings,
    experts: ExpertsSettings,
    checkpoint: CheckpointSettings,
    strategy: StrategySettings,
    averaging: AveragingSettings,
    seed: int,
    sequence_length: int,
) -> Plan:
    """Find this process's rank, divide the tokens of a step, and compute which steps are averaged.

    Raises:
        ConfigError: the strategy does not fit the processes that were started or what is trained, the tokens do not
            divide, a checkpoint would be due more often than once a step, the run is too short for its average, or
            DeepSpeed is not installed.
    """
    ranks = Ranks.from_environment(strategy)
    _check_precision(trainer, strategy)
    _check_trainable(trainable, trainer, strategy)
    batch = Batch.divide(trainer, sequence_length, ranks.world_size)
    plan = Plan(
        trainer=trainer,
        trainable=trainable,
        optimizer=optimizer,
        schedule=schedule,
        objective=objective,
        experts=experts,
        checkpoint=checkpoint.in_tokens(trainer),
        strategy=strategy,
        averaging=resolve(
            averaging,
            total_steps=math.ceil(trainer.max_tokens / batch.tokens),
            tokens_per_step=batch.tokens,
            warmup_tokens=schedule.warmup(trainer.max_tokens),
        ),
        seed=seed,
        batch=batch,
        ranks=ranks,
    )
    if plan.is_distributed and strategy.kind.startswith("zero"):
        require("deepspeed", f"strategy={strategy.name}")
    return plan


def _check_precision(trainer: TrainerSettings, strategy: StrategySettings) -> None:
    """Refuse bfloat16 weights where nothing keeps float32 ones."""
    if trainer.precision == "bf16_weights" and not strategy.kind.startswith("zero"):
        raise ConfigError(
            f"trainer.precision=bf16_weights keeps float32 masters in ZeRO's shards, but strategy={strategy.name}. "
            "Use trainer.precision=bf16, or strategy=zero1, zero2 or zero3."
        )


def _check_trainable(trainable: TrainableSettings, trainer: TrainerSettings, strategy: StrategySettings) -> None:
    """Refuse to train a part of the weights where the others are not on this rank, or would be rounded."""
    if trainable.kind == "all":
        return
    if strategy.kind in ("zero3", "fsdp2"):
        raise ConfigError(
            f"trainable={trainable.name} needs every rank to hold the weights that it does not train, but "
            f"strategy={strategy.name} keeps them in shards. Use strategy=single, ddp, zero1 or zero2."
        )
    if trainer.precision == "bf16_weights":
        raise ConfigError(
            f"trainable={trainable.name}: trainer.precision=bf16_weights has float32 masters of trained weights only, "
            "and would round the others. Use trainer.precision=bf16."
        )
    if trainable.kind == "submodel" and trainer.compile == "model":
        raise ConfigError(
            "trainable=submodel runs a different number of layers each step, so trainer.compile=model would recompile "
            "each time. Use trainer.compile=block."
        )
