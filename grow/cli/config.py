"""The composition root: every configuration is registered, composed and parsed here and nowhere else.

`DictConfig` stops in this file. A run is `parse(cfg, RunConfig)`: real dataclasses, checked before anything heavy is
imported.
"""

from contextlib import nullcontext
from functools import cache
from typing import Any, TypeVar, overload

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from grow.analysis.settings import AnalysisSettings, AnalyzeConfig
from grow.averaging.settings import AverageCheckpointsConfig, AveragingSettings, SweepAveragesConfig
from grow.cli.checkpoint_config import GrowCheckpointConfig
from grow.cli.explain import explain, is_set_below_null
from grow.cli.odd_values import refuse_odd_values, refuse_output
from grow.cli.run_config import ChainConfig, EstimateConfig, RunConfig
from grow.cli.spelling import spelled
from grow.common.errors import ConfigError
from grow.common.places import CONFIG_DIR
from grow.data.check import vocabulary_of
from grow.data.settings import DataSettings
from grow.distributed.settings import StrategySettings
from grow.evaluation.settings import EvalConfig, EvaluationSettings, FetchEvalDataConfig
from grow.families.model_settings import MODEL_SETTINGS
from grow.families.settings import ArchitectureSettings, ImportCheckpointConfig, ScaledSettings
from grow.growth.settings import ChainSettings, GrowthSettings
from grow.inspection.settings import InspectDataConfig
from grow.loggers.settings import LoggerSettings
from grow.merging.settings import ExtractPluginConfig, MergeConfig, MergingSettings, SweepMergesConfig
from grow.preparation.prepare_settings import PrepareDataConfig
from grow.report.settings import ReportConfig, ReportPresetsConfig, WandbReportConfig
from grow.training.settings import (
    CheckpointSettings,
    ExpertsSettings,
    ExportConfig,
    ObjectiveSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainableSettings,
    TrainerSettings,
)

Config = TypeVar("Config")

COMMANDS: dict[str, type] = {
    "run": RunConfig,
    "estimate": EstimateConfig,
    "chain": ChainConfig,
    "grow_checkpoint": GrowCheckpointConfig,
    "prepare_data": PrepareDataConfig,
    "report": ReportConfig,
    "report_presets": ReportPresetsConfig,
    "import_checkpoint": ImportCheckpointConfig,
    "export": ExportConfig,
    "average_checkpoints": AverageCheckpointsConfig,
    "sweep_averages": SweepAveragesConfig,
    "merge": MergeConfig,
    "sweep_merges": SweepMergesConfig,
    "extract_plugin": ExtractPluginConfig,
    "wandb_report": WandbReportConfig,
    "eval": EvalConfig,
    "analyze": AnalyzeConfig,
    "fetch_eval_data": FetchEvalDataConfig,
    "inspect_data": InspectDataConfig,
}
"""What each command's configuration is parsed into; Hydra knows it as NAME_schema."""

GROUPS: dict[str, type] = {
    "model": ArchitectureSettings,
    "growth": GrowthSettings,
    "chain": ChainSettings,
    "data": DataSettings,
    "optimizer": OptimizerSettings,
    "schedule": ScheduleSettings,
    "objective": ObjectiveSettings,
    "experts": ExpertsSettings,
    "averaging": AveragingSettings,
    "merging": MergingSettings,
    "strategy": StrategySettings,
    "trainable": TrainableSettings,
    "trainer": TrainerSettings,
    "checkpoint": CheckpointSettings,
    "logger": LoggerSettings,
    "evaluation": EvaluationSettings,
    "analysis": AnalysisSettings,
}
"""What each group's choices are parsed into; a model has the settings of its family."""


@cache
def register() -> None:
    """Give Hydra the schema of every command and group, once in a process."""
    store = ConfigStore.instance()
    for name, schema in COMMANDS.items():
        store.store(name=f"{name}_schema", node=schema)
    for settings in MODEL_SETTINGS:
        store.store(group="model", name=f"{settings.family}_schema", node=settings)
    store.store(group="model", name="scaled_schema", node=ScaledSettings)
    for group, schema in GROUPS.items():
        if group != "model":
            store.store(group=group, name=f"{group}_schema", node=schema)
    OmegaConf.register_new_resolver("vocabulary_of", vocabulary_of, replace=True)


def parse(cfg: DictConfig, schema: type[Config]) -> Config:
    """Turn a composed configuration into typed objects.

    Raises:
        ConfigError: a key is unknown or missing, a value has the wrong type, or values contradict each other.
    """
    try:
        refuse_odd_values(OmegaConf.to_container(cfg, resolve=True))
        config = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise explain(error) from None
    except AttributeError as error:  # a key added with +, which a slotted dataclass refuses
        raise ConfigError(f"{error}. Remove the + and check the spelling: --cfg job prints every key.") from None
    refuse_output(config)
    if not isinstance(config, schema):
        raise ConfigError(f"expected a configuration of {schema.__name__}, found {type(config).__name__}.")
    return config


@overload
def compose(overrides: list[str]) -> RunConfig: ...
@overload
def compose(overrides: list[str], config_name: str, schema: type[Config]) -> Config: ...
def compose(overrides: list[str], config_name: str = "train", schema: type[Any] = RunConfig) -> Any:
    """Return the configuration that a command line with these overrides would get.

    Raises:
        ConfigError: a choice or key is unknown, or as `parse` says.
    """
    register()
    inside_command = GlobalHydra.instance().is_initialized()
    with nullcontext() if inside_command else hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        try:
            return parse(hydra.compose(config_name, spelled(config_name, overrides)), schema)
        except (HydraException, OmegaConfBaseException, AssertionError) as error:
            if isinstance(error, AssertionError) and not is_set_below_null(error):
                raise
            raise explain(error) from None
