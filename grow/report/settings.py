"""Configuration of the report. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grow.common.checks import at_least_one
from grow.common.errors import ConfigError


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """scripts/report.py: makes a table, a figure and a page of runs' speed-up. A directory stands for a list of one."""

    runs: Any
    """Run directories to judge; runs of one recipe with different seeds become one arm."""
    baseline: Any = None
    """Run directories of the same architecture from noise, one for each seed. null: the report says it is missing."""
    continued: Any = None
    """Run directories of the source trained further (growth=identity). null: the report says it is missing."""
    output: str
    """Directory for speedup.json, speedup.md, speedup.png and report.html."""
    amortised_over: int = 4
    """m, the number of targets that share the source's cost in the amortised accounting."""

    def __post_init__(self) -> None:
        for name in ("runs", "baseline", "continued"):
            setattr(self, name, _directories(name, getattr(self, name)))
        if not self.runs:
            raise ConfigError("runs=[]: expected at least one run directory. Give runs='[DIR,DIR]'.")
        every = [Path(directory).resolve() for directory in (*self.runs, *self.baseline, *self.continued)]
        twice = sorted({str(directory) for directory in every if every.count(directory) > 1})
        if twice:
            raise ConfigError(
                f"{', '.join(twice)}: named more than once. Name each run once, in one of runs, baseline and continued."
            )
        at_least_one("amortised_over", self.amortised_over)


@dataclass(kw_only=True, slots=True)
class WandbReportConfig(ReportConfig):
    """scripts/wandb_report.py: makes a W&B report of the same runs."""

    output: str | None = None  # type: ignore[assignment]  # a file here
    """JSON file for the report in the form in which it is sent to W&B's server; writing it uses no network."""
    publish: bool = False
    """Upload the report."""
    project: str = "grow"
    """W&B project of the runs and of the report."""
    entity: str | None = None
    """User or team; null takes the account's default."""
    title: str = "Speed-up"

    def __post_init__(self) -> None:
        ReportConfig.__post_init__(self)
        if self.output is None and not self.publish:
            raise ConfigError("expected output=FILE, publish=true or both, found neither: there is nothing to do.")


@dataclass(kw_only=True, slots=True)
class ReportPresetsConfig:
    """studies/report_presets.py: makes a table and a figure of the presets run by studies/measure_presets.sh."""

    runs: str
    """Directory with the runs SHAPE/PRESET-SEED."""
    output: str | None = None
    """Directory for growth_measured.csv and .png; the tables in its growth.md and growth_measured.md are replaced."""
    best: int | None = None
    """Print this many of the best presets by seed 0 instead, each after its shape."""

    def __post_init__(self) -> None:
        at_least_one("best", self.best)
        if (self.output is None) == (self.best is None):
            raise ConfigError(
                "expected either output=DIRECTORY for the table and the figure, or best=N to print N presets, found "
                f"{'neither' if self.output is None else 'both'}."
            )


def _directories(key: str, value: Any) -> list[str]:
    directories = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(directory, str) and directory for directory in directories):
        raise ConfigError(f"{key}={value!r}: expected a run directory or a list of them: {key}='[DIR,DIR]'.")
    return directories
