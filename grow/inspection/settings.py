"""Configuration of scripts/inspect_data.py. Imports nothing heavy."""

from dataclasses import dataclass

from grow.common.checks import at_least_one, not_negative, seed_of_generators
from grow.common.errors import ConfigError
from grow.data.settings import DataSettings


@dataclass(kw_only=True, slots=True)
class InspectDataConfig:
    """scripts/inspect_data.py: shows what a run reads and what the sources hold, or finds test items in the data."""

    data: DataSettings
    step: int | None = None
    """Optimizer step whose sequences are shown, from 1; null: `position`."""
    position: int | None = None
    """First sequence of the run to show, from 0; null: the run's first one."""
    seed: int = 0
    """The run's seed."""
    tokens_per_step: int = 4096
    """The run's trainer.tokens_per_step."""
    shown: int = 8
    """Largest number of sequences that are shown."""
    decontaminate: str | None = None
    """Directory of evaluation items, written by scripts/fetch_eval_data.py, to search the training split for; null
    searches for none."""
    ngram: int = 13
    """decontaminate: length of a common run of words that counts as an overlap; 13 as for GPT-3 (arXiv 2005.14165,
    appendix C)."""
    output: str | None = None
    """Directory for index.html; with decontaminate, JSON file for the overlapping items. Null writes none."""

    def __post_init__(self) -> None:
        if self.step is not None and self.position is not None:
            raise ConfigError(f"step={self.step} position={self.position}: expected one of the two.")
        at_least_one("step", self.step)
        not_negative("position", self.position)
        seed_of_generators("seed", self.seed)
        at_least_one("shown", self.shown, 1000)
        at_least_one("ngram", self.ngram)
        if self.tokens_per_step < self.data.sequence_length:
            raise ConfigError(
                f"tokens_per_step={self.tokens_per_step}: expected at least one sequence of "
                f"data.sequence_length={self.data.sequence_length}."
            )

    @property
    def positions(self) -> range:
        """Positions of the sequences to show."""
        of_step = self.tokens_per_step // self.data.sequence_length
        first = (self.position or 0) if self.step is None else (self.step - 1) * of_step
        return range(first, first + min(self.shown, of_step))
