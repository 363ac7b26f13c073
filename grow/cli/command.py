"""Commands: compose, parse, run a task, and turn a user's mistakes into one paragraph and an exit code."""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from grow.cli.closed_pipe import ends_with_its_reader
from grow.cli.config import Config, parse, register
from grow.cli.explain import explain, is_full_disk, is_set_below_null, raised_in
from grow.cli.help_page import help_page
from grow.cli.interrupts import SWEEP, what_is_kept
from grow.cli.loading import say_what_is_loaded
from grow.cli.run_config import RunConfig
from grow.cli.spelling import spelled
from grow.cli.sweep_check import handed_on
from grow.common.child_process import INTERRUPTED
from grow.common.errors import CheckpointError, ConfigError, GrowError
from grow.common.places import CONFIG_DIR
from grow.common.printed import say
from grow.distributed.ranks import Ranks
from grow.sweeps.sweep import Sweep


def entry_point(config_name: str, schema: type[Config]) -> Callable[[Callable[[Config], None]], Callable[[], None]]:
    """Make a command out of a task: compose, parse, run, and turn a user's mistakes into one paragraph.

    The docstring of the task's module opens the command's help. Exit codes are those of `grow.common.errors`; 130 is an
    interrupt from the keyboard. With -m every run is a process of its own, and the command ends with a table of them.

    Args:
        config_name: Name of the command's configuration in configs/.
        schema: Dataclass it is parsed into, which the task gets.
    """

    def decorate(task: Callable[[Config], None]) -> Callable[[], None]:
        @ends_with_its_reader()
        def command() -> None:
            if {"--help", "-h"} & set(sys.argv[1:]):
                description = sys.modules[task.__module__].__doc__ or ""
                print(help_page(Path(sys.argv[0]).name, description, config_name, schema))
                return
            register()
            sys.argv[1:] = spelled(config_name, sys.argv[1:])
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of exiting with its own code
            # Spinning OpenMP threads make a CPU run 3 to 5 times slower as soon as anything else wants a core.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
            launch = hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)
            sweep = Sweep(sys.argv[0])
            with _mistakes_explained(sweep):
                launch(lambda cfg: _attempt(task, cfg, schema, sweep))()
                if code := sweep.close():
                    if code == INTERRUPTED:
                        _say_interrupted(SWEEP)
                    sys.exit(code)

        return functools.wraps(task)(command)

    return decorate


@contextmanager
def _mistakes_explained(sweep: Sweep) -> Iterator[None]:
    """Turn what Hydra or a launcher raises because of a user's mistake into a paragraph and an exit code."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        _fail(explain(error))
    except KeyboardInterrupt:
        sentence = SWEEP if sweep.has_runs else "Nothing was started."
        sweep.close()
        _say_interrupted(sentence)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if raised_in(error, "submitit"):
            sweep.close()
            _fail(GrowError(f"{error} Jobs that were submitted go on; give the same command again after them."))
        if not is_set_below_null(error):
            raise
        _fail(explain(error))


def given_overrides() -> list[str]:
    """Return the overrides that this command was started with."""
    return list(HydraConfig.get().overrides.task)


def _attempt(task: Callable[[Config], None], cfg: DictConfig, schema: type[Config], sweep: Sweep) -> float | None:
    """Do the task, or one run of a sweep, whose final validation loss is what Hydra's sweepers minimize."""
    hydra_config = HydraConfig.get()
    try:
        if hydra_config.mode == RunMode.MULTIRUN:
            number, flags = int(hydra_config.job.num), handed_on(hydra_config)
            return sweep.run(number, given_overrides(), lambda: _directory(parse(cfg, schema)), flags)
        config = parse(cfg, schema)
        say_what_is_loaded(Path(sys.argv[0]).stem)
        _do(task, config)
        return None
    except GrowError as error:  # caught inside Hydra, which would print a line of its own above ours
        _fail(error)
    except Exception as error:
        if not is_full_disk(error):
            raise
        _fail(CheckpointError(f"the disk is full: {error}. Free some space and give the same command again."))


def _do(task: Callable[[Config], None], config: Config) -> None:
    """Do a task; where it is interrupted, or the last process that it started, say what is kept."""
    try:
        task(config)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, KeyboardInterrupt) or end.code == INTERRUPTED:
            _say_interrupted(what_is_kept(config))
            sys.exit(INTERRUPTED)
        raise


def _say_interrupted(sentence: str) -> None:
    with suppress(ConfigError):  # contradictory variables of ranks are not the matter now
        if Ranks.found().is_first:
            say(f"\nInterrupted. {sentence}", file=sys.stderr)


def _directory(config: Any) -> Path | None:
    return config.directory if isinstance(config, RunConfig) else None


def _fail(error: GrowError) -> NoReturn:
    say(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
