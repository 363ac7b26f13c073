"""The typed composition root: every configuration is registered, composed and parsed here and nowhere else.

`DictConfig` stops in this file. A run is `parse(cfg) -> RunConfig`: real dataclasses, checked before anything
heavy is imported.
"""

from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from grow.analysis.settings import AnalysisSettings, AnalyzeConfig
from grow.averaging.settings import AverageCheckpointsConfig, AveragingSettings, SweepAveragesConfig
from grow.cli.aliases import spelled
from grow.cli.explain import explain
from grow.common.checks import at_least_one, positive
from grow.common.errors import ConfigError
from grow.common.places import CONFIG_DIR
from grow.common.provenance import digest_json
from grow.data.settings import DataSettings, PrepareDataConfig
from grow.distributed.settings import StrategySettings
from grow.estimate.settings import EstimateSettings
from grow.evaluation.settings import EvalConfig, EvaluationSettings, FetchEvalDataConfig, InspectDataConfig
from grow.families.settings import MODEL_SETTINGS, ModelSettings
from grow.growth.settings import ChainSettings, GrowthSettings, ScaleSettings
from grow.loggers.settings import LoggerSettings
from grow.report.settings import ReportConfig, ReportPresetsConfig, WandbReportConfig
from grow.training.settings import (
    CheckpointSettings,
    ExportConfig,
    ObjectiveSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainableSettings,
    TrainerSettings,
)

Config = TypeVar("Config")


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """One training run: an architecture, what it starts from, and what it learns."""

    model: ModelSettings
    growth: GrowthSettings | None
    data: DataSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    objective: ObjectiveSettings
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
    """What a run directory that holds an earlier start of the run may be continued with. exact: nothing that changes
    its numbers; changed: other values of optimizer, schedule, objective and trainer."""
    run_dir: str | None
    """Directory of the run; null derives it from the configuration, so that the same command finds it again."""

    def __post_init__(self) -> None:
        if self.resume not in ("exact", "changed"):
            raise ConfigError(f"resume={self.resume!r}: expected one of exact, changed.")
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
        self._check_trainable()
        self.logger.group = self.logger.group or _launched_as() or self.recipe
        self.logger.tags = list(dict.fromkeys([self.model.name, self.start, *self.logger.tags]))

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
        if self.growth is None:
            return None
        return self.growth.sources[0] if self.growth.sources else self.growth.source or self.model.grown_from

    @property
    def directory(self) -> Path:
        """The run directory: `run_dir`, or a name that the same configuration always gets."""
        if self.run_dir is not None:
            return Path(self.run_dir)
        watching = ("logger", "evaluation", "analysis", "baseline", "continued")
        unnamed = ("run_dir", "resume", "strategy", "checkpoint", *watching)
        digest = digest_json({key: value for key, value in asdict(self).items() if key not in unnamed})
        return Path("outputs") / f"{self.recipe}-seed{self.seed}-{digest[:8]}"


@dataclass(kw_only=True, slots=True)
class ChainConfig(RunConfig):
    """scripts/chain.py: the target, and the runs that lead to it. What it says of a run, it says of every link."""

    chain: ChainSettings
    baseline: Any = None
    """The target from noise, for the report: run directories, one a seed."""
    continued: Any = None
    """The last link's source trained on, for the report: run directories."""

    def __post_init__(self) -> None:
        if self.growth is not None or self.trainable.kind != "all":
            raise ConfigError(
                "growth and trainable are each link's own: chain.links.LINK.growth=NAME, "
                "chain.links.LINK.trainable=NAME, \"chain.links.LINK.overrides=['growth.snr_db=20']\"."
            )
        RunConfig.__post_init__(self)

    @property
    def start(self) -> str:
        """The chain, which its directory is named by."""
        return self.chain.name


@dataclass(kw_only=True, slots=True)
class EstimateConfig(RunConfig):
    """scripts/estimate.py: a run, and the machine it is reckoned for."""

    estimate: EstimateSettings = field(default_factory=EstimateSettings)
    output: str | None = None
    """JSON file for the numbers."""
    json: bool = False
    """Print JSON instead of tables."""


@dataclass(kw_only=True, slots=True)
class GrowCheckpointConfig:
    """scripts/grow_checkpoint.py: one checkpoint directory, or several, in, a bigger one out."""

    source: str | None
    output: str
    growth: GrowthSettings
    model: ModelSettings | None = None
    scale: ScaleSettings = field(default_factory=ScaleSettings)
    workers: int | None = None
    """Weight files made at a time, each with a tensor in memory; null: a core each, up to 8."""
    shard_gb: float = 5.0
    """Most gigabytes of a weight file; more and smaller ones keep more workers busy."""

    def __post_init__(self) -> None:
        at_least_one("workers", self.workers)
        positive("shard_gb", self.shard_gb)
        if (self.source is None) == (self.growth.sources is None):
            raise ConfigError("expected source=DIRECTORY_OR_HUB_ID, or growth.sources=[ONE,TWO] to join several.")


def register() -> None:
    """Give Hydra the schema of every group; idempotent."""
    store = ConfigStore.instance()
    store.store(name="run_schema", node=RunConfig)
    store.store(name="estimate_schema", node=EstimateConfig)
    store.store(name="chain_schema", node=ChainConfig)
    store.store(name="grow_checkpoint_schema", node=GrowCheckpointConfig)
    store.store(name="prepare_data_schema", node=PrepareDataConfig)
    store.store(name="report_schema", node=ReportConfig)
    store.store(name="report_presets_schema", node=ReportPresetsConfig)
    store.store(name="export_schema", node=ExportConfig)
    store.store(name="average_checkpoints_schema", node=AverageCheckpointsConfig)
    store.store(name="sweep_averages_schema", node=SweepAveragesConfig)
    store.store(name="wandb_report_schema", node=WandbReportConfig)
    store.store(name="eval_schema", node=EvalConfig)
    store.store(name="analyze_schema", node=AnalyzeConfig)
    store.store(name="fetch_eval_data_schema", node=FetchEvalDataConfig)
    store.store(name="inspect_data_schema", node=InspectDataConfig)
    for settings in MODEL_SETTINGS:
        store.store(group="model", name=f"{settings.family}_schema", node=settings)
    for group, settings in (
        ("growth", GrowthSettings),
        ("chain", ChainSettings),
        ("data", DataSettings),
        ("optimizer", OptimizerSettings),
        ("schedule", ScheduleSettings),
        ("objective", ObjectiveSettings),
        ("averaging", AveragingSettings),
        ("strategy", StrategySettings),
        ("trainable", TrainableSettings),
        ("trainer", TrainerSettings),
        ("checkpoint", CheckpointSettings),
        ("logger", LoggerSettings),
        ("evaluation", EvaluationSettings),
        ("analysis", AnalysisSettings),
    ):
        store.store(group=group, name=f"{group}_schema", node=settings)


def _launched_as() -> str | None:
    """The experiment or sweep that the command line chose."""
    if not HydraConfig.initialized():
        return None
    choices = HydraConfig.get().runtime.choices
    return choices.get("sweep") or choices.get("experiment")


def parse(cfg: DictConfig, schema: type[Config] = RunConfig) -> Config:  # type: ignore[assignment]
    """Turn a composed configuration into typed objects.

    Raises:
        ConfigError: a key is unknown or missing, a value has the wrong type, or values contradict each other.
    """
    try:
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise explain(error) from None
    except AttributeError as error:  # a key added with +, which a slotted dataclass refuses
        raise ConfigError(f"{error}. Remove the + and check the spelling: --cfg job prints every key.") from None
    if not isinstance(config, schema):
        raise ConfigError(f"expected a configuration of {schema.__name__}, found {type(config).__name__}.")
    return config


def compose(overrides: list[str], config_name: str = "train", schema: type[Config] = RunConfig) -> Config:  # type: ignore[assignment]
    """The configuration that a command line with these overrides would get.

    Raises:
        ConfigError: as `parse`.
    """
    register()
    inside_command = GlobalHydra.instance().is_initialized()
    with nullcontext() if inside_command else hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        try:
            return parse(hydra.compose(config_name, spelled(config_name, overrides)), schema)
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error) from None


def resolved(config: Any) -> dict[str, Any]:
    """The configuration as plain data, for run.json; dataclass nodes carry their class's name under `_type`."""
    plain = asdict(config)
    for key in plain:
        value = getattr(config, key)
        if hasattr(value, "__dataclass_fields__"):
            plain[key] = {"_type": type(value).__name__, **plain[key]}
    return plain
