"""What decides the tokens that are made of texts, and what bad input gets."""

from dataclasses import asdict, dataclass
from typing import Any

from grow.preparation.findings import Findings
from grow.preparation.texts import Reader


@dataclass(kw_only=True, slots=True, frozen=True)
class Options:
    """What decides the tokens, and what bad input gets."""

    tokenizer: str | None
    """Directory or hub id; None trains one of `vocab_size` entries on the texts."""
    vocab_size: int | None
    shard_tokens: int
    """Tokens after which the next shard file is begun."""
    validation_percent: float = 5.0
    task_mb: int = 1024
    text_key: str = "text"
    source_key: str | None = "source"
    skip: bool = False
    """Whether bad input is counted and left out; refused otherwise."""
    max_bad: int | None = None
    id_key: str = "id"

    @property
    def of_the_data(self) -> dict[str, Any]:
        """Return the options that decide the tokens."""
        return {name: value for name, value in asdict(self).items() if name not in ("skip", "max_bad", "id_key")}

    def reader(self, *, skip: bool | None = None) -> Reader:
        """Return a reader that has found nothing yet."""
        findings = Findings(skip=self.skip if skip is None else skip, max_bad=None if skip else self.max_bad)
        return Reader(text_key=self.text_key, source_key=self.source_key, id_key=self.id_key, findings=findings)
