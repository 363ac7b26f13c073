"""A run as the command line describes it: typed, checked before anything heavy is imported, and never changed after."""

from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.core.hydra_config import HydraConfig

from grow.analysis.settings import AnalysisSettings
from grow.averaging.settings import AveragingSettings
from grow.common.checks import one_of, seed_of_generators
from grow.common.errors import ConfigError
from grow.common.identity import naming
from grow.common.output_path import refuse_unwritable
from grow.common.provenance import digest_json
from grow.data.check import check_data
from grow.data.settings import DataSettings
from grow.distributed.settings import StrategySettings
from grow.estimate.settings import EstimateSettings
from grow.evaluation.settings import EvaluationSettings
from grow.families.settings import ArchitectureSettings, ModelSettings
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

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """One training run: an architecture, what it starts from, and what it learns."""

    model: ArchitectureSettings
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
    scale: ScaleSettings = field(default_factory=ScaleSettings)
    """model=scaled: factors on the sizes of the source."""
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
        if isinstance(self.model, ModelSettings):
            self._check_sizes(self.model)
        elif not self.sources:
            raise ConfigError(
                f"model={self.model.name} needs a model whose sizes it multiplies. "
                "Add growth.source=DIRECTORY_OR_HUB_ID."
            )
        elif self.growth is not None and self.model.grown_from is None:
            self.scale.refuse_smaller()
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

    def _check_sizes(self, model: ModelSettings) -> None:
        """Refuse what does not fit the sizes of a named model."""
        self._check_positions(model.max_positions)
        if self.scale != ScaleSettings():
            raise ConfigError(
                f"scale.*: model={model.name} has sizes of its own. Add model=scaled to multiply the sizes of a source."
            )
        self._check_submodels(model.layers)

    def _check_positions(self, positions: int) -> None:
        if self.data.sequence_length > positions:
            raise ConfigError(
                f"data.sequence_length={self.data.sequence_length} is longer than model.max_positions={positions} "
                f"of model={self.model.name}. Shorten the sequence or choose a model with more positions."
            )

    def _check_submodels(self, layers: int) -> None:
        if self.trainable.kind == "submodel" and self.trainable.block_layers >= layers:
            raise ConfigError(
                f"trainable.block_layers={self.trainable.block_layers}: expected fewer than the {layers} "
                f"layers of model={self.model.name}, else there is one sub-model, the whole."
            )

    def _check_trainable(self) -> None:
        if self.trainable.kind == "new_layers" and self.growth is None:
            raise ConfigError(
                "trainable=new_layers trains the layers that a growth adds, but growth=none. Choose a growth that adds "
                "layers, e.g. growth=mslt, or trainable=all."
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
    def sources(self) -> list[str]:
        """The checkpoints that the run takes something from: its weights, its architecture or its tokenizer."""
        if isinstance(self.model, ModelSettings) or self.growth_sources or self.model.grown_from is None:
            return self.growth_sources
        return [self.model.grown_from]

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
        digest = digest_json(naming(self.resolved()))
        return Path("outputs") / f"{self.recipe}-seed{self.seed}-{digest[:8]}"

    def architecture(self) -> "PreTrainedConfig":
        """Return the architecture of the run, for model=scaled out of its source. Raises as `architecture_of`."""
        from grow.growth.target import architecture_of  # heavy, like everything that knows models

        if isinstance(self.model, ModelSettings):
            return architecture_of(self.model)
        derived_from = [self.model.grown_from] if self.model.grown_from else self.growth_sources
        config = architecture_of(self.model, derived_from, self.growth, self.scale)
        self._check_positions(config.max_position_embeddings)
        self._check_submodels(config.num_hidden_layers)
        return config

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
        sources = () if continues else self.sources
        for source in (*sources, *([self.teacher] if self.teacher else [])):
            check_source(source)
        refuse_unwritable("run_dir", str(self.directory))
        check_data(self.data, getattr(self.model, "vocab_size", None), grown=bool(self.sources))

    def resolved(self) -> dict[str, Any]:
        """Return the configuration as plain data, for run.json; dataclasses carry their class's name under `_type`."""
        plain = asdict(self)
        for key in plain:
            value = getattr(self, key)
            if is_dataclass(value):
                plain[key] = {"_type": type(value).__name__, **plain[key]}
        if isinstance(self.model, ModelSettings):
            del plain["scale"]  # nothing reads it
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


def _launched_as() -> str | None:
    """Return the experiment or sweep that the command line chose."""
    if not HydraConfig.initialized():
        return None
    choices = HydraConfig.get().runtime.choices
    return choices.get("sweep") or choices.get("experiment")
