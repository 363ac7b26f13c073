"""A run as the command line describes it: typed, checked before anything heavy is imported, and never changed after."""

from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig

from grow.analysis.settings import AnalysisSettings
from grow.averaging.settings import AveragingSettings
from grow.common.checks import at_least_one, one_of, positive, seed_of_generators
from grow.common.errors import ConfigError
from grow.common.identity import ADDED, flat, names_the_run
from grow.common.output_path import refuse_unwritable
from grow.common.provenance import digest_json
from grow.data.check import check_data
from grow.data.settings import DataSettings
from grow.distributed.settings import StrategySettings
from grow.estimate.settings import EstimateSettings
from grow.evaluation.settings import EvaluationSettings
from grow.families.settings import ModelSettings
from grow.families.source_directory import check_source
from grow.growth.settings import ChainSettings, GrowthSettings, ScaleSettings
from grow.loggers.settings import LoggerSettings
from grow.training.plan import Plan, plan_run
from grow.training.run_directory import FRESH, RESUME, RunDirectory
from grow.training.settings import (
    OWN_SOURCE,
    CheckpointSettings,
    ExpertsSettings,
    ObjectiveSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainableSettings,
    TrainerSettings,
)


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """One training run: an architecture, what it starts from, and what it learns."""

    model: ModelSettings
    growth: GrowthSettings | None
    data: DataSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    objective: ObjectiveSettings
    experts: ExpertsSettings
    strategy: StrategySettings
    trainable: TrainableSettings
    trainer: TrainerSettings
    checkpoint: CheckpointSettings
    averaging: AveragingSettings
    evaluation: EvaluationSettings
    analysis: AnalysisSettings
    logger: LoggerSettings
    seed: int
    resume: str
    """What may differ from the run that the directory already holds. exact: nothing that changes its numbers; changed:
    optimizer, schedule, objective, trainer and averaging too; fresh: everything, as the run that is there is moved to
    RUN.before-TIME and this one starts anew."""
    run_dir: str | None
    """Directory of the run; null derives it from the configuration, so that the same command finds it again."""

    def __post_init__(self) -> None:
        one_of("resume", self.resume, RESUME)
        seed_of_generators("seed", self.seed)
        sequence = self.data.sequence_length
        if sequence > self.model.max_positions:
            raise ConfigError(
                f"data.sequence_length={sequence} is longer than model.max_positions={self.model.max_positions} "
                f"of model={self.model.name}. Shorten the sequence or choose a model with more positions."
            )
        if self.trainer.max_tokens < self.trainer.tokens_per_step:
            raise ConfigError(
                f"trainer.max_tokens={self.trainer.max_tokens} is less than one step of "
                f"trainer.tokens_per_step={self.trainer.tokens_per_step}."
            )
        if self.growth is None and self.averaging.on_growth == "map":
            raise ConfigError("averaging.on_growth=map: growth=none grows no window. Use averaging.on_growth=reset.")
        if self.growth is not None and self.growth_source is None:
            raise ConfigError(
                f"growth={self.growth.name} needs a model to grow from, and model={self.model.name} names none. "
                "Add growth.source=DIRECTORY_OR_HUB_ID, or use growth=none to start from noise."
            )
        if self.objective.teacher == OWN_SOURCE and self.growth is None:
            raise ConfigError(
                f"objective.teacher={OWN_SOURCE}: growth=none grows from no model. Name the teacher: "
                "objective.teacher=RUN_OR_DIRECTORY_OR_HUB_ID."
            )
        self._check_trainable()

    def _check_trainable(self) -> None:
        if self.trainable.kind == "new_layers" and self.growth is None:
            raise ConfigError(
                "trainable=new_layers trains the layers that a growth adds, but growth=none. Choose a growth that adds "
                "layers, e.g. growth=mslt, or trainable=all."
            )
        if self.trainable.kind == "submodel" and self.trainable.block_layers >= self.model.layers:
            raise ConfigError(
                f"trainable.block_layers={self.trainable.block_layers}: expected fewer than the {self.model.layers} "
                f"layers of model={self.model.name}, else there is one sub-model, the whole."
            )

    @property
    def start(self) -> str:
        """What the weights start as, in a word: a growth or noise."""
        return "noise" if self.growth is None else self.growth.name

    @property
    def recipe(self) -> str:
        """What the seeds of one arm share."""
        return f"{self.model.name}-{self.start}"

    @property
    def growth_source(self) -> str | None:
        """The checkpoint to grow from, if any; of several, the first."""
        return self.growth_sources[0] if self.growth_sources else None

    @property
    def growth_sources(self) -> list[str]:
        """The checkpoints to grow from."""
        if self.growth is None:
            return []
        source = self.growth.source or self.model.grown_from
        return self.growth.sources or ([] if source is None else [source])

    @property
    def teacher(self) -> str | None:
        """The model that the run learns from, if any."""
        return self.growth_source if self.objective.teacher == OWN_SOURCE else self.objective.teacher

    @property
    def group(self) -> str:
        """W&B's group of the run: what the user says, else the experiment or sweep, else the recipe."""
        return self.logger.group or _launched_as() or self.recipe

    @property
    def tags(self) -> list[str]:
        """W&B's tags of the run: the model, the growth, and what the user says."""
        return list(dict.fromkeys([self.model.name, self.start, *self.logger.tags]))

    @property
    def labelled_logger(self) -> LoggerSettings:
        """The logger's settings, with the group and tags under which the run is shown."""
        return replace(self.logger, group=self.group, tags=self.tags)

    @property
    def directory(self) -> Path:
        """The run directory: `run_dir`, or a name that is the same for every configuration of the same numbers.

        Keys that change the numbers by rounding at most, such as trainer.micro_batch, do not change the name. Earlier
        versions let some of them change it, so their names end otherwise: run_dir=DIRECTORY continues such a run.
        """
        if self.run_dir is not None:
            return Path(self.run_dir)
        given = flat(self.resolved()).items()
        naming = {key: value for key, value in given if names_the_run(key) and (key, value) not in ADDED.items()}
        if self.trainer.precision == "auto":  # the default was fp32 before: its runs keep their directories
            naming["trainer.precision"] = "fp32"
        digest = digest_json(naming)
        return Path("outputs") / f"{self.recipe}-seed{self.seed}-{digest[:8]}"

    def plan(self) -> Plan:
        """Work out what this process will do in the run.

        Raises:
            ConfigError: the strategy, the batch or the average does not fit the processes or the length of the run.
        """
        return plan_run(
            trainer=self.trainer,
            trainable=self.trainable,
            optimizer=self.optimizer,
            schedule=self.schedule,
            objective=self.objective,
            experts=self.experts,
            checkpoint=self.checkpoint,
            strategy=self.strategy,
            averaging=self.averaging,
            seed=self.seed,
            sequence_length=self.data.sequence_length,
        )

    def check_inputs(self) -> None:
        """Refuse a directory that cannot be written, missing sources, and data that do not fit the model.

        A run that continues from a checkpoint needs its sources no more. Nothing heavy is imported for it.

        Raises:
            ConfigError: something else is where the run directory would be.
            CheckpointError: a source is a path, and there is no such directory.
            DataError: the run would stop at its data.
        """
        continues = self.resume != FRESH and RunDirectory(self.directory).newest_step is not None
        sources = () if continues else self.growth_sources
        for source in (*sources, *([self.teacher] if self.teacher else [])):
            check_source(source)
        refuse_unwritable("run_dir", str(self.directory))
        check_data(self.data, self.model.vocab_size, grown=self.growth is not None)

    def resolved(self) -> dict[str, Any]:
        """Return the configuration as plain data, for run.json; dataclasses carry their class's name under `_type`."""
        plain = asdict(self)
        for key in plain:
            value = getattr(self, key)
            if is_dataclass(value):
                plain[key] = {"_type": type(value).__name__, **plain[key]}
        return plain


@dataclass(kw_only=True, slots=True)
class ChainConfig(RunConfig):
    """scripts/chain.py: the target, and the runs that lead to it. Settings of a run hold for every link."""

    hidden_groups: ClassVar[tuple[str, ...]] = ("growth", "trainable")
    """Groups that --help does not offer: each link has its own."""

    chain: ChainSettings
    baseline: Any = None
    """Run directories of the target trained from noise, one for each seed; the report compares with them."""
    continued: Any = None
    """Run directories of the last link's source trained further; the report compares with them."""

    def __post_init__(self) -> None:
        if self.growth is not None or self.trainable.kind != "all":
            raise ConfigError(
                "growth and trainable are each link's own: chain.links.LINK.growth=NAME, "
                "chain.links.LINK.trainable=NAME, \"chain.links.LINK.overrides=['growth.snr_db=20']\"."
            )
        RunConfig.__post_init__(self)

    @property
    def start(self) -> str:
        """Name of the chain, for the name of its directory."""
        return self.chain.name


@dataclass(kw_only=True, slots=True)
class EstimateConfig(RunConfig):
    """scripts/estimate.py: a run, and the GPUs whose memory and hours it is estimated for."""

    estimate: EstimateSettings = field(default_factory=EstimateSettings)
    output: str | None = None
    """JSON file for the numbers."""
    json: bool = False
    """Print JSON instead of tables."""


@dataclass(kw_only=True, slots=True)
class GrowCheckpointConfig:
    """scripts/grow_checkpoint.py: one checkpoint directory or several in, a bigger one out."""

    source: str | None
    output: str
    growth: GrowthSettings
    model: ModelSettings | None = None
    scale: ScaleSettings = field(default_factory=ScaleSettings)
    workers: int | None = None
    """Weight files written at the same time, each with one tensor in memory; null: one for each core, up to 8."""
    shard_gb: float = 5.0
    """Largest size of a weight file in gigabytes; smaller files keep more workers busy."""

    def __post_init__(self) -> None:
        at_least_one("workers", self.workers)
        positive("shard_gb", self.shard_gb)
        if (self.source is None) == (self.growth.sources is None):
            raise ConfigError("expected source=DIRECTORY_OR_HUB_ID, or growth.sources=[ONE,TWO] to join several.")


def _launched_as() -> str | None:
    """Return the experiment or sweep that the command line chose."""
    if not HydraConfig.initialized():
        return None
    choices = HydraConfig.get().runtime.choices
    return choices.get("sweep") or choices.get("experiment")
