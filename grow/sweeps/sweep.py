"""Several runs from one command (-m), each in a process of its own: what ends one does not end the others.

Hydra's launcher calls `Sweep.run` once for every run, in the user's process or in a job's. It starts the same program
with one run's overrides, passes signals on to it, and writes the outcome to a file. When the launcher is done, the
user's process reads those files: `Sweep.close` prints them and returns the exit code.

A sweeper that chooses the next runs by the last ones, such as hydra/sweeper=optuna, gets each run's final loss.
"""

import collections
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from grow.common.child_process import INTERRUPTED, run_process
from grow.common.errors import ConfigError, DivergedError, GrowError, PreemptedError
from grow.common.metric_names import VAL_LOSS
from grow.common.printed import say
from grow.common.provenance import write_json
from grow.common.records import read_record
from grow.common.redact import redacted
from grow.common.rows import read_rows
from grow.distributed.ranks import Ranks
from grow.sweeps.requeue import in_submitit, requeue
from grow.training.run_directory import RunDirectory

_FOLDER = Path("outputs/.sweep")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """How one run of a sweep ended."""

    number: int
    overrides: list[str]
    state: str
    """finished, skipped (it was before), failed, preempted, interrupted, or waiting (the sweep ended before it)."""
    exit_code: int = 0
    note: str = ""
    """The run's directory, or the line that says why there is none."""

    @property
    def loss(self) -> float | None:
        """The run's final validation loss: infinite where it diverged, None where it has none."""
        if self.exit_code == DivergedError.exit_code:
            return math.inf
        if self.state not in ("finished", "skipped") or not self.note:
            return None
        losses = [row[VAL_LOSS] for row in read_rows(RunDirectory(Path(self.note)).metrics) if VAL_LOSS in row]
        return float(losses[-1]) if losses else None


class Sweep:
    """The runs of one command.

    Args:
        script: Program that every run starts.
    """

    def __init__(self, script: str) -> None:
        self._command = [sys.executable, str(Path(script).resolve())]
        self._folder = (_FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns()}").resolve()
        self._stopped = 0

    def run(
        self,
        number: int,
        overrides: list[str],
        configure: Callable[[], Path | None],
        flags: Sequence[str] = (),
    ) -> float | None:
        """Do one run; the first of a job's ranks records its outcome. Hydra's launcher calls this once for every run.

        Args:
            number: Position of the run in its sweep.
            overrides: What the program is started with.
            configure: Checks the run's configuration and returns its directory, if it has one.
            flags: Arguments of every run of the sweep: where its configuration is found.

        Returns:
            The run's final validation loss, as `RunOutcome.loss`.

        Raises:
            ConfigError: several processes were started for the sweep itself.
        """
        refuse_ranks()
        outcome = self._outcome(number, overrides, configure, flags)
        if Ranks.found().is_first:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / f"{number}.json", asdict(outcome))
        return outcome.loss

    @property
    def has_runs(self) -> bool:
        """Whether the outcome of a run has been recorded."""
        return any(self._folder.glob("*.json"))

    def close(self) -> int:
        """Print a table of the runs, if there were any, and return the exit code of the worst."""
        outcomes = [read_record(path, RunOutcome) for path in self._folder.glob("*.json")]
        if not outcomes:
            return 0
        say("\n" + as_table(sorted(outcomes, key=lambda outcome: outcome.number)))
        shutil.rmtree(self._folder)
        return worst([outcome.exit_code for outcome in outcomes])

    def _outcome(
        self, number: int, overrides: list[str], configure: Callable[[], Path | None], flags: Sequence[str]
    ) -> RunOutcome:
        def outcome(state: str, exit_code: int = 0, note: str = "") -> RunOutcome:
            return RunOutcome(number=number, overrides=overrides, state=state, exit_code=exit_code, note=note)

        if self._stopped:
            return outcome("waiting", self._stopped)
        try:
            directory = configure()
        except GrowError as error:
            return outcome("failed", error.exit_code, f"{type(error).__name__}: {error}")
        if directory is not None and RunDirectory(directory).is_finished:
            return outcome("skipped", 0, str(directory))
        say(f"\n# {directory or ' '.join(redacted(overrides))}")
        ended = run_process([*self._command, *flags, *overrides, "hydra.mode=RUN"])
        note = requeue() if ended.state == "preempted" else ""  # leaves where it can, and pickles this object
        if ended.signals or ended.state == "preempted":  # no other run is started, however this one ended
            self._stopped = PreemptedError.exit_code
        if ended.state == "finished":
            return outcome("finished", 0, str(directory or ""))
        if ended.state == "preempted":
            return outcome("preempted", self._stopped, note)
        if ended.state == "interrupted":
            self._stopped = INTERRUPTED
            return outcome("interrupted", INTERRUPTED)
        return outcome("failed", ended.code, ended.error)


def refuse_ranks() -> None:
    """Refuse a sweep that was itself started as several processes.

    Raises:
        ConfigError: it was.
    """
    ranks = Ranks.found()
    if ranks.world_size > 1 and not in_submitit():
        raise ConfigError(
            f"-m: expected one process, which starts one run after another, found {ranks.world_size}. For runs of "
            "several ranks add hydra/launcher=slurm hydra.launcher.tasks_per_node=N, or submit slurm/sweep.sbatch."
        )


def worst(exit_codes: list[int]) -> int:
    """Return the exit code of a sweep: 75 or 130 where it was stopped and has runs left, else its runs' highest."""
    stopped = [code for code in (INTERRUPTED, PreemptedError.exit_code) if code in exit_codes]
    return stopped[0] if stopped else max(exit_codes)


def as_table(outcomes: list[RunOutcome]) -> str:
    """Return a line for each run: the overrides in which it differs from others, its state, its directory or error."""
    shared = set.intersection(*(set(outcome.overrides) for outcome in outcomes))
    names = [
        " ".join(redacted([each for each in outcome.overrides if each not in shared] or outcome.overrides))
        for outcome in outcomes
    ]
    width = max(map(len, names))
    lines = [
        f"{name:<{width}}  {outcome.state:<11}  {outcome.note}".rstrip()
        for name, outcome in zip(names, outcomes, strict=True)
    ]
    counts = collections.Counter(outcome.state for outcome in outcomes)
    return "\n".join([*lines, ", ".join(f"{count} {state}" for state, count in counts.items())])
