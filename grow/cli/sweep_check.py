"""Checks every run of a sweep (-m) before the first is started, and tells the runs where their configuration is found.

configs/script.yaml makes Hydra call `SweepCheck` when a sweep begins. Only Hydra's own sweeper can be checked: others
choose the next runs by the results of the last ones.
"""

import sys
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from grow.cli.config import compose
from grow.cli.run_config import RunConfig
from grow.common.errors import GrowError
from grow.common.places import CONFIG_DIR
from grow.common.printed import say
from grow.common.redact import redacted
from grow.sweeps.sweep import RunOutcome, as_table, refuse_ranks, worst
from grow.training.run_directory import RunDirectory


class SweepCheck(Callback):
    """Refuses a whole sweep where one of its runs cannot be configured; Hydra calls it before its sweeper."""

    def on_multirun_start(self, config: DictConfig, config_name: str | None = None, **_: Any) -> None:
        """Leave with a table of the runs and an exit code if any run is a mistake, before anything is started."""
        jobs = _jobs(config.hydra)
        try:
            refuse_ranks()
            outcomes = [_checked(number, job, config, str(config_name)) for number, job in enumerate(jobs)]
        except GrowError as error:  # Hydra turns what a callback raises into a warning, except for SystemExit
            say(f"{type(error).__name__}: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        failed = [outcome for outcome in outcomes if outcome.state == "failed"]
        if not failed:
            return
        say(f"\n# No run was started: {len(failed)} of {len(outcomes)} cannot be\n\n{as_table(outcomes)}")
        first = failed[0]
        say(f"Run {first.number + 1} ({' '.join(redacted(first.overrides))}): {first.note}", file=sys.stderr)
        sys.exit(worst([outcome.exit_code for outcome in failed]))


def handed_on(hydra: HydraConf) -> list[str]:
    """Return the arguments by which a run of a sweep finds the configuration files that the sweep finds."""
    flags = ["--config-name", str(hydra.job.config_name)]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", source.path]
        elif source.provider == "main" and Path(source.path) != CONFIG_DIR:
            flags += ["--config-path", source.path]
    return flags + _search_path(hydra)


def _search_path(hydra: HydraConf) -> list[str]:
    return [override for override in hydra.overrides.hydra if override.lstrip("+").startswith("hydra.searchpath=")]


def _jobs(hydra: HydraConf) -> list[list[str]]:
    """Return the overrides of every run, as Hydra's own sweeper will make them; none for another sweeper."""
    if not _class_of(hydra.sweeper).endswith(".BasicSweeper"):
        return []
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    sweeper = BasicSweeper(max_batch_size=None, params=hydra.sweeper.params)
    try:
        parsed = OverridesParser.create().parse_overrides([*sweeper._parse_config(), *hydra.overrides.task])
        return [list(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
    except HydraException:
        return []  # the sweeper's to report


def _class_of(plugin: Any) -> str:
    return str(OmegaConf.select(plugin, "_target_", default=""))


def _checked(number: int, overrides: list[str], config: DictConfig, config_name: str) -> RunOutcome:
    """Return what is known of a run before it is started: failed, skipped, or waiting."""

    def outcome(state: str, exit_code: int = 0, note: str = "") -> RunOutcome:
        return RunOutcome(number=number, overrides=overrides, state=state, exit_code=exit_code, note=note)

    try:
        schema = OmegaConf.get_type(config) or RunConfig
        run = compose([*overrides, *_search_path(config.hydra)], config_name, schema)
        if not isinstance(run, RunConfig):
            return outcome("waiting")
        directory = RunDirectory(run.directory)
        if directory.is_finished:
            return outcome("skipped", note=str(directory.path))
        if _class_of(config.hydra.launcher).endswith(".BasicLauncher"):  # else the ranks are those of a job
            run.plan()
            run.check_inputs()
        directory.check_continues(run.resolved(), run.resume)
        return outcome("waiting")
    except GrowError as error:
        return outcome("failed", error.exit_code, f"{type(error).__name__}: {error}")
