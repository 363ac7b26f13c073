"""What is true of a command's work at the moment in which the user interrupts it, in a sentence."""

import glob
from pathlib import Path
from typing import Any

from grow.analysis.settings import AnalyzeConfig
from grow.averaging.settings import AverageCheckpointsConfig
from grow.cli.checkpoint_config import GrowCheckpointConfig
from grow.cli.run_config import ChainConfig, RunConfig
from grow.evaluation.settings import EvalConfig, FetchEvalDataConfig
from grow.preparation.prepare_settings import PrepareDataConfig
from grow.training.run_directory import RunDirectory
from grow.training.settings import ExportConfig

NOTHING = "Nothing was saved; the same command starts anew."
SWEEP = "Runs that are finished are kept; the same command does the others."


def what_is_kept(config: Any) -> str:
    """Return what an interrupted command leaves behind, and what the same command will do.

    Args:
        config: Configuration of the command.
    """
    match config:
        case ChainConfig():
            return "Links that are finished are kept; the same command continues at the link it was in."
        case RunConfig() if type(config) is RunConfig:
            return _of_run(RunDirectory(config.directory), config.resume)
        case GrowCheckpointConfig() if any(_unfinished(Path(config.output))):
            return "Weight files that are complete are kept; the same command continues."
        case PrepareDataConfig(adopt=str()):
            return "No shard was changed; the same command starts anew."
        case PrepareDataConfig(verify=str()):
            return "No shard was changed; the same command starts anew."
        case PrepareDataConfig() if any(_unfinished(Path(config.output or ""))):
            return "Tasks that are finished are kept; the same command continues."
        case GrowCheckpointConfig() | PrepareDataConfig() | ExportConfig() | AverageCheckpointsConfig():
            return _of_directory(Path(config.output or ""))
        case FetchEvalDataConfig():
            return _of_directory(Path(config.output))
        case EvalConfig():
            return "Results of tasks that are finished are kept; the same command measures the others."
        case AnalyzeConfig():
            return "The run is as it was; the same command analyzes all of its checkpoints again."
        case _:  # commands that read runs and write a page, a table or a figure
            return "No run was changed; the same command starts anew."


def _of_run(run: RunDirectory, resume: str) -> str:
    if run.is_finished:
        return f"The run is finished: its model is {run.model}."
    saved = run.newest_step
    if saved is None:
        return NOTHING
    here = "without resume=fresh " if resume == "fresh" else ""
    return f"The same command {here}continues from step {saved:,}."


def _of_directory(output: Path) -> str:
    """Return what holds for a directory that appears whole or not at all."""
    return f"{output} is complete." if output.is_dir() and any(output.iterdir()) else NOTHING


def _unfinished(output: Path) -> list[Path]:
    return list(output.parent.glob(f".{glob.escape(output.name)}.*partial"))
