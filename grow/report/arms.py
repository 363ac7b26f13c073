"""Groups runs into arms: the seeds of one recipe. Says what else differs, so that nothing is averaged by accident."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grow.common.errors import ConfigError
from grow.common.identity import flat, names_the_recipe
from grow.report.curves import CostAxis, Curve, mean_curve
from grow.report.runs import Run, read_run


@dataclass(kw_only=True, slots=True)
class Arm:
    """Runs of one recipe, one a seed."""

    label: str
    runs: list[Run]
    curve: Curve
    """Mean over the seeds."""

    @property
    def curves(self) -> list[Curve]:
        return [run.curve for run in self.runs]

    def source_cost(self, axis: CostAxis) -> float | None:
        """Return the mean cost of the sources, 0 from noise; None where any of them is unknown."""
        costs = [0.0 if run.lineage is None else getattr(run.lineage, axis) for run in self.runs]
        return None if None in costs else sum(costs) / len(costs)


def read_arms(directories: Sequence[str]) -> list[Arm]:
    """Read runs and group them by recipe, in the order they were named.

    Raises:
        CheckpointError, DataError: as `read_run` does.
    """
    recipes: dict[str, list[Run]] = {}
    runs = [read_run(Path(directory)) for directory in directories]
    for run, label in zip(runs, _labels(runs), strict=True):
        recipes.setdefault(label, []).append(run)
    return [_arm(label, members) for label, members in recipes.items()]


def read_baseline(key: str, directories: Sequence[str], label: str) -> Arm | None:
    """Read the runs of one baseline, which must be one arm and start as its name says; None where none is named.

    Raises:
        ConfigError: the runs started another way, or are not seeds of one recipe.
        CheckpointError, DataError: as `read_run` does.
    """
    arms = read_arms(directories)
    for run in (run for arm in arms for run in arm.runs):
        if run.label != label:
            raise ConfigError(f"{key}={run.directory}: expected a run {label!r}, found one of {run.label!r}.")
    if len(arms) > 1:
        raise ConfigError(f"{key}: expected seeds of one recipe, found {'; '.join(arm.label for arm in arms)}.")
    return _arm(label, arms[0].runs) if arms else None


def differences(first: Run, second: Run) -> dict[str, tuple[Any, Any]]:
    """Return the recipe keys in which two runs differ, with both values; a group of another name counts once."""
    left, right = _recipe(first), _recipe(second)
    keys = [key for key in left | right if left.get(key) != right.get(key)]
    renamed = {key.removesuffix("name") for key in keys if key.endswith(".name")}
    return {
        key: (left.get(key), right.get(key))
        for key in keys
        if key.endswith(".name") or not any(key.startswith(group) for group in renamed)
    }


def _arm(label: str, runs: list[Run]) -> Arm:
    return Arm(label=label, runs=runs, curve=mean_curve([run.curve for run in runs]))


def _labels(runs: list[Run]) -> list[str]:
    """Return the label of each run, with the settings in which runs of the same label differ."""
    labels = []
    for run in runs:
        others = [other for other in runs if other.label == run.label]
        varying = dict.fromkeys(key for other in others for key in differences(run, other))
        recipe = _recipe(run)
        details = ", ".join(f"{key}={recipe.get(key)}" for key in varying)
        labels.append(f"{run.label} ({details})" if details else run.label)
    return labels


def _recipe(run: Run) -> dict[str, Any]:
    recipe = {key: value for key, value in flat(run.config).items() if names_the_recipe(key)}
    if run.lineage is not None:
        recipe["source.tokens"] = run.lineage.tokens
    return recipe
