"""What each key of a configuration means to a run: the one table that decides whether two runs are the same.

Three readers decide by it: whether a configuration may continue a run directory (grow/training/run_directory.py), which
directory a run gets by default (grow/cli/run_config.py), and which runs are the seeds of one arm (grow/report/arms.py).
"""

from enum import Enum
from typing import Any

from grow.common.redact import same_but_for_secrets


class Meaning(Enum):
    """What another value of a key does to a run."""

    NUMBERS = "changes the numbers"
    SEED = "changes the numbers, as it does between the seeds of one recipe"
    PLACE = "says where an input lies: a run goes on with it where the digest of the input is the same"
    ON_REQUEST = "changes the numbers, and a run may go on with it where resume=changed asks for that"
    FREE = "changes how the run is computed, and its numbers by rounding at most"
    WATCHING = "changes where the run is, and what is shown and measured of it"


MEANINGS = {
    "model": Meaning.NUMBERS,
    "growth": Meaning.NUMBERS,
    "growth.seed": Meaning.SEED,
    "growth.source": Meaning.SEED,  # each seed grows from the source of its own seed
    "scale": Meaning.NUMBERS,
    "data": Meaning.NUMBERS,
    "data.path": Meaning.PLACE,  # grow/training/run_data.py compares the digests
    "data.mixture": Meaning.ON_REQUEST,  # for what lies ahead of the run
    "data.stages": Meaning.ON_REQUEST,
    "data.max_epochs": Meaning.FREE,
    "data.read_ahead": Meaning.FREE,
    "trainable": Meaning.NUMBERS,
    "chain": Meaning.NUMBERS,
    "seed": Meaning.SEED,
    "optimizer": Meaning.ON_REQUEST,
    "schedule": Meaning.ON_REQUEST,
    "objective": Meaning.ON_REQUEST,
    "experts": Meaning.ON_REQUEST,
    "averaging": Meaning.ON_REQUEST,
    "trainer": Meaning.ON_REQUEST,
    "trainer.micro_batch": Meaning.FREE,
    "trainer.accelerator": Meaning.FREE,
    "trainer.threads": Meaning.FREE,
    "trainer.compile": Meaning.FREE,
    "trainer.log_every_steps": Meaning.FREE,
    "strategy": Meaning.FREE,
    "checkpoint": Meaning.FREE,
    "evaluation": Meaning.WATCHING,
    "analysis": Meaning.WATCHING,
    "logger": Meaning.WATCHING,
    "resume": Meaning.WATCHING,
    "run_dir": Meaning.WATCHING,
    "baseline": Meaning.WATCHING,
    "continued": Meaning.WATCHING,
    "estimate": Meaning.WATCHING,
    "output": Meaning.WATCHING,
    "json": Meaning.WATCHING,
}
"""Keys and whole groups; a key with a line of its own is not what its group is."""


LEFT_OPEN = {"trainer.precision": ("auto",), "growth.join": ("none", "experts")}
"""Keys, and the values that are met by whatever a run began with: `auto` leaves the choice to the machine; what
growth.join says now was not said before, and growth.sources decides."""
NAMED_BEFORE = {"trainer.precision": {"auto": "fp32"}, "growth.join": {"none": "beside", "experts": "beside"}}
"""Keys, their values, and what earlier versions called them in the name of a run's directory."""
IMPLIED = {
    "growth.dtype": "source",
    "data.mixture": None,
    "data.stages": None,
    "objective.kind": "next_token",
    "objective.teacher": None,
    "objective.alpha": 1.0,
    "objective.alpha_decay": 0.0,
    "objective.temperature": 1.0,
    "experts.name": "default",
    "experts.balance": 0.01,
    "experts.z": 0.001,
    "experts.balance_over": "step",
}
"""Keys that earlier versions did not have, and the value that they acted by."""


def meaning(key: str) -> Meaning:
    """Return what a dotted key means; one without a line, as a later version may write, changes the numbers."""
    while key not in MEANINGS:
        key, dot, _ = key.rpartition(".")
        if not dot:
            return Meaning.NUMBERS
    return MEANINGS[key]


def may_change(key: str, resume: str) -> bool:
    """Return whether a run may be continued with another value of a key.

    Args:
        key: A dotted key.
        resume: Value of resume: exact, or changed to accept the keys that may change on request.
    """
    if meaning(key) is Meaning.ON_REQUEST:
        return resume == "changed"
    return meaning(key) is Meaning.PLACE or not names_the_run(key)


def asks_for(key: str, now: Any, before: Any) -> bool:
    """Return whether a configuration's value of a key is met by what a run has: the same one, or one left open."""
    implied = before is None and key in IMPLIED and now == IMPLIED[key]
    return same_but_for_secrets(before, now) or now in LEFT_OPEN.get(key, ()) or implied


def is_watching(key: str) -> bool:
    """Return whether a key changes neither the numbers nor how they are computed."""
    return meaning(key) is Meaning.WATCHING


def names_the_run(key: str) -> bool:
    """Return whether two runs that differ in a key are two runs: the default directory is named by such keys."""
    return meaning(key) in (Meaning.NUMBERS, Meaning.SEED, Meaning.PLACE, Meaning.ON_REQUEST)


def naming(config: dict[str, Any]) -> dict[str, Any]:
    """Return the values by which the default directory of a run is named, as earlier versions spelled them.

    Args:
        config: Configuration of the run, as plain data.
    """
    return {
        key: NAMED_BEFORE[key].get(value, value) if key in NAMED_BEFORE else value
        for key, value in flat(config).items()
        if names_the_run(key) and (key not in IMPLIED or value != IMPLIED[key])
    }


def names_the_recipe(key: str) -> bool:
    """Return whether two runs that differ in a key are of two recipes: the seeds of one arm agree in such keys."""
    return names_the_run(key) and meaning(key) is not Meaning.SEED


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a nested configuration by dotted key, comparable with those that JSON gives back."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            values.update(flat(value, f"{prefix}{key}."))
        else:
            values[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return values
