"""Configuration of scripts/prepare_data.py. Imports nothing heavy."""

from dataclasses import dataclass, field

from grow.common.checks import LARGEST_SIZE, at_least_one, not_negative, one_of
from grow.common.errors import ConfigError

_TEXTS_ONLY = ("input", "part", "restart", "max_bad")
_ADOPT_ONLY = ("dtype", "eos_id", "validation_tokens", "mix")


@dataclass(kw_only=True, slots=True)
class PrepareDataConfig:
    """scripts/prepare_data.py: texts to token shards (input, output), a manifest for shards that exist (adopt), or
    a comparison of shards with their digests (verify)."""

    input: list[str] = field(default_factory=list)
    """Files, directories, patterns and URLs of texts, hf://NAME[/CONFIG][:SPLIT], and @LIST for a file of names."""
    output: str | None = None
    """Directory to make. adopt: directory for manifest and tokenizer; null writes them next to the shards."""
    shard_tokens: int = 64 * 2**20
    """Tokens after which the next shard file is begun."""
    validation_percent: float = 5.0
    """Share of the documents that is held out, in percent, by the hash of their text."""
    text_key: str = "text"
    """Key, or column, of a document's text."""
    source_key: str | None = "source"
    """Key, or column, of a document's source; null takes the input's folder."""
    id_key: str = "id"
    """Key, or column, of a document's name, for messages."""
    bad: str = "refuse"
    """What bad input gets: refuse stops at the first, skip leaves it out and counts it in report.json."""
    max_bad: int | None = None
    """bad=skip: most bad lines and files; null for any number."""
    task_mb: int = 1024
    """Input of one task in MB: the part that is done anew after a process was killed. A file is never split."""
    workers: int = 1
    """Processes, each of which does one task at a time. adopt, verify: threads."""
    part: str | None = None
    """I/N: do only the tasks whose number modulo N is I, for N commands at once (slurm/prepare.sbatch)."""
    restart: bool = False
    """Whether to begin anew where an earlier start was left unfinished."""
    adopt: str | None = None
    """Directory of shards that has no manifest yet: .npy of Dolma, .bin and .idx of Megatron, .ds of datatrove."""
    mix: str | None = None
    """adopt: file of `label,path` lines as in OLMo-core: which shards to take, and their sources."""
    dtype: str | None = None
    """adopt: uint16 or uint32; null takes Megatron's index's."""
    eos_id: int | None = None
    """adopt: the id that ends a document; null takes the tokenizer's."""
    validation_tokens: int | None = None
    """adopt: tokens to hold out."""
    tokenizer: str | None = None
    """Directory or hub id of the tokenizer."""
    vocab_size: int | None = None
    """Texts: size of the tokenizer to train, in place of `tokenizer`. adopt: as in the manifest; null takes the
    tokenizer's."""
    verify: str | None = None
    """Directory of shards to compare with the digests in their manifest; nothing is written."""

    def __post_init__(self) -> None:
        at_least_one("workers", self.workers, 1024)
        if self.verify is not None:
            if self.adopt is not None or self.input or self.output is not None:
                raise ConfigError("verify=DIRECTORY only reads: leave out input, output and adopt.")
        elif self.adopt is None:
            self._check_texts()
        else:
            self._check_adopt()

    @property
    def part_of(self) -> tuple[int, int]:
        """Number of this part, and the number of parts."""
        index, _, parts = (self.part or "0/1").partition("/")
        return int(index), int(parts)

    def _check_texts(self) -> None:
        if not self.input or self.output is None:
            raise ConfigError("expected input='[TEXTS]' output=DIRECTORY to tokenize texts, or adopt=DIRECTORY.")
        if (self.tokenizer is None) == (self.vocab_size is None):
            raise ConfigError("expected tokenizer=DIRECTORY_OR_HUB_ID to use one, or vocab_size=N to train one.")
        for name in ("shard_tokens", "task_mb"):
            at_least_one(name, getattr(self, name))
        at_least_one("vocab_size", self.vocab_size, LARGEST_SIZE)
        if not 0 < self.validation_percent < 100:
            raise ConfigError(f"validation_percent={self.validation_percent}: expected a number above 0 and below 100.")
        one_of("bad", self.bad, ("refuse", "skip"))
        not_negative("max_bad", self.max_bad)
        if self.max_bad is not None and self.bad != "skip":
            raise ConfigError(f"max_bad={self.max_bad}: only bad=skip takes it. Leave it out, or set bad=skip.")
        self._check_part()
        self._refuse_given(_ADOPT_ONLY, "only adopt=DIRECTORY takes it.")

    def _check_part(self) -> None:
        try:
            index, parts = self.part_of
        except ValueError:
            index, parts = 0, 0
        if not 0 <= index < parts:
            raise ConfigError(f"part={self.part}: expected I/N with I from 0 to N - 1, such as part=0/8.")
        if self.part is not None and self.restart:
            raise ConfigError("restart=true with part=I/N: it would remove what other parts did. Remove the directory.")

    def _check_adopt(self) -> None:
        self._refuse_given(_TEXTS_ONLY, "adopt=DIRECTORY describes shards that exist.")
        if self.tokenizer is None or not self.validation_tokens:
            raise ConfigError("adopt=DIRECTORY also needs tokenizer=..., dtype=uint16 or uint32, validation_tokens=N.")
        if self.dtype not in ("uint16", "uint32", None):
            raise ConfigError(f"dtype={self.dtype}: expected uint16 or uint32.")
        at_least_one("validation_tokens", self.validation_tokens)
        at_least_one("vocab_size", self.vocab_size, LARGEST_SIZE)
        not_negative("eos_id", self.eos_id)

    def _refuse_given(self, names: tuple[str, ...], why: str) -> None:
        for name in names:
            if getattr(self, name):
                raise ConfigError(f"{name}={getattr(self, name)}: {why} Leave it out.")
