"""Configuration of the loggers. Imports nothing heavy."""

from dataclasses import dataclass, field

from grow.common.checks import one_of
from grow.common.errors import ConfigError

VIEWS = ("csv", "tensorboard", "wandb")
MODES = ("online", "offline")


@dataclass(kw_only=True, slots=True)
class LoggerSettings:
    """The views of a run's rows besides metrics.jsonl. No setting here changes what is trained."""

    name: str
    views: list[str] = field(default_factory=list)
    """Any of csv, tensorboard, wandb."""
    mode: str = "online"
    """W&B only. online: upload during the run. offline: keep W&B's files in the run directory, for `wandb sync`."""
    project: str = "grow"
    """W&B only."""
    entity: str | None = None
    """W&B only: user or team; null takes the account's default."""
    group: str | None = None
    """W&B only: name that groups runs; null takes the experiment or sweep, else the recipe."""
    tags: list[str] = field(default_factory=list)
    """W&B only: tags besides those of the model and the growth."""

    def __post_init__(self) -> None:
        wrong = [view for view in self.views if view not in VIEWS]
        if wrong or len(set(self.views)) < len(self.views):
            raise ConfigError(f"logger.views={self.views}: expected any of {', '.join(VIEWS)}, each at most once.")
        one_of("logger.mode", self.mode, MODES)
        if not self.project:
            raise ConfigError("logger.project='': expected the name of a W&B project.")
