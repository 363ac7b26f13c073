"""What a key means to a run: the run directory, the default directory's name and the report's arms agree on it."""

import copy
import json
from types import SimpleNamespace

import pytest

from grow.cli.config import compose
from grow.cli.run_config import ChainConfig, EstimateConfig
from grow.common.errors import ConfigError
from grow.common.identity import MEANINGS, Meaning, flat, meaning
from grow.report.arms import differences
from grow.training.run_directory import RunDirectory

GROWN = ["growth=hyperclone", "growth.source=somewhere", "model=tiny_2x"]
CONFIGS = {
    "run": compose(GROWN),
    "scaled": compose([*GROWN[:2], "model=scaled"]),
    "chain": compose(["model=tiny_2x"], "chain", ChainConfig),
    "estimate": compose(GROWN, "estimate", EstimateConfig),
}
KEYS = {key: name for name in reversed(CONFIGS) for key in flat(CONFIGS[name].resolved()) if not key.endswith("._type")}
FREE = ("micro_batch", "accelerator", "threads", "compile", "log_every_steps")


def changed(config, key):
    """A copy of a configuration with another value of one key."""
    other = copy.deepcopy(config)
    *path, name = key.split(".")
    owner = other
    for part in path:
        owner = owner[part] if isinstance(owner, dict) else getattr(owner, part)
    if isinstance(owner, dict):
        owner[name] = "another"
    else:
        setattr(owner, name, "another")
    return other


def refused(directory, config, resume):
    try:
        RunDirectory(directory).check_continues(config.resolved(), resume)
    except ConfigError:
        return True
    return False


@pytest.mark.parametrize("key", KEYS)
def test_the_three_readers_agree_on_every_key(key, tmp_path):
    config = CONFIGS[KEYS[key]]
    other = changed(config, key)
    assert flat(other.resolved()) != flat(config.resolved())
    (tmp_path / "run.json").write_text(json.dumps({"config": config.resolved()}))
    another_run = refused(tmp_path, other, "exact")
    if key not in ("run_dir", "data.path"):  # data that were moved continue where run_dir names the run
        assert (other.directory != config.directory) == another_run
    first, second = (SimpleNamespace(config=each.resolved(), lineage=None) for each in (config, other))
    another_recipe = bool(differences(first, second))
    assert another_recipe == (
        (another_run or key == "data.path") and key not in ("seed", "growth.seed", "growth.source")
    )
    on_request = another_run and not refused(tmp_path, other, "changed")
    asked = ("optimizer", "schedule", "objective", "experts", "averaging", "trainer")
    assert on_request == (key.partition(".")[0] in asked or key in ("data.mixture", "data.stages")) - (
        key in [f"trainer.{name}" for name in FREE]
    )


def test_every_key_has_a_line_in_the_table_and_every_line_a_key():
    assert {key.partition(".")[0] for key in KEYS} == {line.partition(".")[0] for line in MEANINGS}
    assert all(any(key == line or key.startswith(f"{line}.") for key in KEYS) for line in MEANINGS)


def test_a_key_that_nobody_has_judged_counts_as_one_that_changes_the_numbers():
    assert meaning("invention.of.tomorrow") is Meaning.NUMBERS
    assert meaning("trainer") is meaning("trainer.invention") is Meaning.ON_REQUEST


@pytest.mark.parametrize(
    "given", ["trainer.micro_batch=4", "trainer.threads=2", "strategy=zero2", "checkpoint=none", "logger=csv"]
)
def test_a_resume_on_another_machine_finds_the_run_it_continues(given):
    assert compose([given]).directory == compose([]).directory


def test_a_configuration_is_what_was_given_whatever_is_asked_of_it():
    run = compose([*GROWN, "logger.tags=[mine]"])
    before = copy.deepcopy(run)
    assert run.group == "tiny_2x-hyperclone" and run.tags == ["tiny_2x", "hyperclone", "mine"]
    assert (run.labelled_logger.group, run.labelled_logger.tags) == (run.group, run.tags)
    assert run == before and run.logger.group is None and run.logger.tags == ["mine"]
    assert run.plan() == run.plan() and run.plan().batch.sequence_length == run.data.sequence_length
