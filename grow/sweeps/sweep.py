"""Several runs from one command (-m): each in a process of its own, so that nothing that ends one reaches the others.

Hydra's launcher calls `Sweep.run` once for every run, in the user's process or in a job's. It starts the same script on
one run's overrides, passes signals on to it, and leaves the outcome in a file. The user's process reads those files
when the launcher is done, whichever launcher it was: `Sweep.close` prints them and says what to exit with.
"""

import collections
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grow.common.errors import ConfigError, GrowError, PreemptedError
from grow.common.provenance import read_json, write_json
from grow.distributed.ranks import Ranks
from grow.sweeps.requeue import in_submitit, requeue
from grow.training.run_directory import RunDirectory

_FOLDER = Path("outputs/.sweep")
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
INTERRUPTED = 130
_ERROR_LINE = re.compile(r"(^|\s)[\w.]*(Error|Exception): ")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOutcome:
    """How one run of a sweep ended."""

    number: int
    overrides: list[str]
    state: str
    """finished, skipped (it was before), failed, preempted, interrupted, or waiting (the sweep stopped before it)."""
    exit_code: int = 0
    note: str = ""
    """The run's directory, or the line that says why there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a process ended."""

    code: int
    """Its exit status; 128 + N when signal N killed it."""
    error: str
    """The last line of its standard error that names an error, else the last line."""
    signals: frozenset[int]
    """Signals that this process was sent meanwhile."""

    @property
    def state(self) -> str:
        """A run that dies of the signal it was to save on had nothing to save yet."""
        if self.code == PreemptedError.exit_code or self.code - 128 in self.signals - {signal.SIGINT}:
            return "preempted"
        if signal.SIGINT in self.signals:
            return "interrupted"
        return "failed" if self.code else "finished"


class Sweep:
    """The runs of one command.

    Args:
        script: the script that every run starts.
    """

    def __init__(self, script: str) -> None:
        self._command = [sys.executable, str(Path(script).resolve())]
        self._folder = (_FOLDER / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns()}").resolve()
        self._stopped = 0

    def run(self, number: int, overrides: list[str], configure: Callable[[], Path | None]) -> None:
        """Do one run and record its outcome; of a job's ranks the first one does.

        Args:
            number: of the run in its sweep.
            overrides: what the script is started with.
            configure: checks the run's configuration, and names its directory where it has one.

        Raises:
            ConfigError: several processes were started for the sweep itself.
        """
        ranks = Ranks.found()
        if ranks.world_size > 1 and not in_submitit():
            raise ConfigError(
                f"-m: expected one process, which starts one run after another, found {ranks.world_size}. For runs of "
                "several ranks add hydra/launcher=slurm hydra.launcher.tasks_per_node=N, or submit slurm/sweep.sbatch."
            )
        outcome = self._outcome(number, overrides, configure)
        if ranks.is_first:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / f"{number}.json", asdict(outcome))

    def close(self) -> int:
        """Print a table of the runs, if there were any; the exit code of the worst."""
        outcomes = [RunOutcome(**read_json(path)) for path in self._folder.glob("*.json")]
        if not outcomes:
            return 0
        print("\n" + as_table(sorted(outcomes, key=lambda outcome: outcome.number)), flush=True)
        shutil.rmtree(self._folder)
        return worst([outcome.exit_code for outcome in outcomes])

    def _outcome(self, number: int, overrides: list[str], configure: Callable[[], Path | None]) -> RunOutcome:
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
        print(f"\n# {directory or ' '.join(overrides)}", flush=True)
        ended = run_process([*self._command, *overrides, "hydra.mode=RUN"])
        note = requeue() if ended.state == "preempted" else ""  # leaves where it can, and pickles this object
        if ended.signals or ended.state == "preempted":  # however this run ended, no other is to be started
            self._stopped = PreemptedError.exit_code
        if ended.state == "finished":
            return outcome("finished", 0, str(directory or ""))
        if ended.state == "preempted":
            return outcome("preempted", self._stopped, note)
        if ended.state == "interrupted":
            self._stopped = INTERRUPTED
            return outcome("interrupted", INTERRUPTED)
        return outcome("failed", ended.code, ended.error)


def run_process(command: list[str], environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command in a process group of its own; it gets the signals that this process gets, and once each.

    Args:
        command: program and arguments.
        environment: what it finds other than this process does.
    """
    received: list[int] = []
    process: subprocess.Popen[str] | None = None

    def pass_on(signum: int, _: Any) -> None:
        received.append(signum)
        if process is not None:
            process.send_signal(signum)

    heeded = [signum for signum in _PASSED_ON if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, pass_on) for signum in heeded}
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
        )
        for signum in received:  # while it was being started
            process.send_signal(signum)
        error = _pass_through(process)
        code = process.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    code = code if code >= 0 else 128 - code
    return Ended(code=code, error=error or f"exit code {code}", signals=frozenset(received))


def _pass_through(process: subprocess.Popen[str]) -> str:
    error = last = ""
    for line in process.stderr or ():
        print(line, end="", file=sys.stderr, flush=True)
        last = line.strip() or last
        error = last if _ERROR_LINE.search(line) else error
    return error or last


def worst(exit_codes: list[int]) -> int:
    """A sweep that was stopped has runs left, whatever else happened to it; else the highest code is the worst."""
    stopped = [code for code in (INTERRUPTED, PreemptedError.exit_code) if code in exit_codes]
    return stopped[0] if stopped else max(exit_codes)


def as_table(outcomes: list[RunOutcome]) -> str:
    """One line a run: the overrides in which it differs from the others, its state, and where it is or what it said."""
    shared = set.intersection(*(set(outcome.overrides) for outcome in outcomes))
    names = [
        " ".join(override for override in outcome.overrides if override not in shared) or " ".join(outcome.overrides)
        for outcome in outcomes
    ]
    width = max(map(len, names))
    lines = [
        f"{name:<{width}}  {outcome.state:<11}  {outcome.note}".rstrip()
        for name, outcome in zip(names, outcomes, strict=True)
    ]
    counts = collections.Counter(outcome.state for outcome in outcomes)
    return "\n".join([*lines, ", ".join(f"{count} {state}" for state, count in counts.items())])
