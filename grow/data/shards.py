"""Token shards on disk: raw little-endian token ids, read as memory maps, and a manifest.json that describes them.

DIRECTORY/manifest.json          dtype, vocabulary, end-of-text id, tokenizer digest, every shard with its digest
DIRECTORY/tokenizer/             tokenizer for AutoTokenizer
DIRECTORY/train/*.npy            token ids and nothing else, as Dolma and OLMo write them; an eos ends a document
DIRECTORY/validation/*.npy       documents that are never trained on
"""

import hashlib
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grow.common.errors import DataError
from grow.common.provenance import data_of, write_json
from grow.common.records import parse_record
from grow.data.windows import Windows

MANIFEST_FILE = "manifest.json"
TOKENIZER_DIR = "tokenizer"
FORMAT = "grow-token-shards"
VERSION = 1
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
SPLITS = ("train", "validation")
_PIECE_BYTES = 8 * 2**20  # read at once when a digest is computed


@dataclass(kw_only=True, slots=True, frozen=True)
class Shard:
    """Consecutive tokens of one file, of one split and one source."""

    file: str
    """Path relative to the directory of the shards."""
    split: str
    source: str
    start: int
    """Index of the first token in the file."""
    tokens: int
    sha256: str
    """Digest of these tokens' bytes."""


@dataclass(kw_only=True, slots=True, frozen=True)
class TokenShards:
    """A directory of token shards, opened and checked; tokens are not read into memory."""

    path: Path
    digest: str
    """SHA-256 of the manifest, which holds the digest of every shard: equal digests mean equal data."""
    dtype: str
    vocab_size: int
    """Every token id is below this."""
    eos_id: int
    tokenizer_sha256: str
    shards: tuple[Shard, ...]

    @classmethod
    def open(cls, path: str | Path) -> "TokenShards":
        """Open a directory of shards and compare every file's size with the manifest.

        Raises:
            DataError: the manifest or a shard is missing, damaged, truncated or of another format.
        """
        path = Path(path)
        raw = _manifest_bytes(path)
        found = cls(path=path, digest=hashlib.sha256(raw).hexdigest(), **_parse_manifest(path / MANIFEST_FILE, raw))
        found._check_sizes()
        return found

    @property
    def tokenizer_dir(self) -> Path:
        """Directory of the shards' tokenizer, for AutoTokenizer."""
        return self.path / TOKENIZER_DIR

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, sorted."""
        return tuple(sorted({shard.source for shard in self.shards}))

    def tokens(self, split: str, source: str | None = None) -> int:
        """Count the tokens of a split, of all sources or of one."""
        return sum(shard.tokens for shard in self.of_split(split) if source in (None, shard.source))

    def windows(self, split: str, sequence_length: int) -> Windows:
        """Return the windows of `sequence_length` + 1 tokens of a split."""
        return Windows([self.read(shard) for shard in self.of_split(split)], sequence_length)

    def window_sources(self, split: str, sequence_length: int) -> NDArray[np.int64]:
        """Return the source of each window as an index into `sources`: (windows,)."""
        own = self.of_split(split)
        counts = [max(shard.tokens - 1, 0) // sequence_length for shard in own]
        return np.repeat([self.sources.index(shard.source) for shard in own], counts)

    def read(self, shard: Shard) -> NDArray[Any]:
        """Return a shard's tokens as a read-only memory map: (tokens,).

        Raises:
            DataError: the file cannot be read, or was cut after the shards were opened.
        """
        dtype = DTYPES[self.dtype]
        offset, path = shard.start * dtype.itemsize, self.path / shard.file
        try:
            return np.asarray(np.memmap(path, dtype, mode="r", offset=offset, shape=(shard.tokens,)))
        except (OSError, ValueError) as error:
            raise DataError(_changed(path, offset + self.bytes_of(shard), str(error))) from None

    def bytes_of(self, shard: Shard) -> int:
        """Return the size of a shard's tokens in bytes."""
        return shard.tokens * DTYPES[self.dtype].itemsize

    def check(self, shard: Shard) -> None:
        """Read a shard once and compare it with the manifest's digest.

        Raises:
            DataError: the shard is not what it was when the manifest was written, or cannot be read.
        """
        path = self.path / shard.file
        found = _digest(path, shard.start * DTYPES[self.dtype].itemsize, self.bytes_of(shard))
        _compare(path, shard.sha256, found)

    def verify(self) -> None:
        """Read all shards and the tokenizer once and compare them with the manifest's digests.

        Raises:
            DataError: a shard or the tokenizer is not what it was when the manifest was written.
        """
        for shard in self.shards:
            self.check(shard)
        _compare(self.tokenizer_dir, self.tokenizer_sha256, tokenizer_digest(self.tokenizer_dir))

    def check_vocabulary(self, model_vocab_size: int) -> None:
        """Refuse a model that has no embedding for some token of the shards.

        Raises:
            DataError: the model's vocabulary is smaller than the shards'.
        """
        if self.vocab_size > model_vocab_size:
            raise DataError(
                f"{self.path}: token ids go up to {self.vocab_size - 1}, but the model's vocabulary has only "
                f"{model_vocab_size} entries. Set model.vocab_size={self.vocab_size} or more, or prepare the data with "
                "the model's own tokenizer (scripts/prepare_data.py tokenizer=...)."
            )

    def of_split(self, split: str) -> list[Shard]:
        """Return the shards of a split, in the manifest's order."""
        return [shard for shard in self.shards if shard.split == split]

    def _check_sizes(self) -> None:
        itemsize = DTYPES[self.dtype].itemsize
        ends: dict[str, int] = {}
        for shard in self.shards:
            ends[shard.file] = max(ends.get(shard.file, 0), shard.start + shard.tokens)
        for file, tokens in ends.items():
            _check_size(self.path / file, tokens * itemsize)


def write_manifest(directory: Path, *, dtype: str, vocab_size: int, eos_id: int, shards: list[Shard]) -> None:
    """Write the manifest of a directory's shards and tokenizer; its bytes depend on the data alone."""
    totals = {split: sum(shard.tokens for shard in shards if shard.split == split) for split in SPLITS}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": dtype,
        "vocab_size": vocab_size,
        "eos_id": eos_id,
        "tokenizer_sha256": tokenizer_digest(directory / TOKENIZER_DIR),
        "totals": totals,
        "shards": [asdict(shard) for shard in shards],
    }
    write_json(directory / MANIFEST_FILE, content)


def tokenizer_digest(directory: Path) -> str:
    """Return the SHA-256 of tokenizer.json; the small files around it differ between versions of the library.

    Raises:
        DataError: there is no tokenizer.json.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise DataError(f"{path}: expected the shards' tokenizer, found no such file. Prepare the data again.")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def smallest_dtype(vocab_size: int) -> str:
    """Return the smaller of the two token types that hold every id."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def _manifest_bytes(path: Path) -> bytes:
    try:
        return (path / MANIFEST_FILE).read_bytes()
    except OSError as error:
        if next(path.rglob("*.npy"), None) is not None:
            raise DataError(
                f"{path}: expected {MANIFEST_FILE} next to the .npy shards, found none. If these are shards in Dolma's "
                f"format, describe them once with: python scripts/prepare_data.py adopt={path} tokenizer=DIRECTORY "
                "dtype=uint16 validation_tokens=N"
            ) from None
        raise DataError(
            f"{path}: expected a directory of token shards with a {MANIFEST_FILE}, found {error.strerror or error}. "
            "Check data.path=DIRECTORY, or make shards: "
            f"python scripts/prepare_data.py input='[TEXTS]' output={path} vocab_size=4096. Without data of your own, "
            "data=english trainer=default tries a model on the embedded corpus."
        ) from None


@dataclass(kw_only=True, slots=True, frozen=True)
class _Format:
    """What the manifests of every version say of themselves."""

    format: str
    version: int


@dataclass(kw_only=True, slots=True, frozen=True)
class _Manifest:
    """What a manifest holds besides its format."""

    dtype: str
    vocab_size: int
    eos_id: int
    tokenizer_sha256: str
    shards: tuple[Shard, ...]


def _parse_manifest(path: Path, raw: bytes) -> dict[str, Any]:
    """Return the fields of TokenShards from a manifest."""
    expected = f"{path}: expected a manifest of format {FORMAT!r} version {VERSION} with dtype {' or '.join(DTYPES)}"
    advice = "Prepare the data again with scripts/prepare_data.py."
    read = partial(parse_record, raw, where=expected, error=DataError, advice=advice)
    found = read(_Format)
    if (found.format, found.version) != (FORMAT, VERSION):
        raise DataError(f"{expected}, found format {found.format!r} version {found.version}. {advice}")
    manifest = read(_Manifest)
    if manifest.dtype not in DTYPES:
        raise DataError(f"{expected}, found dtype {manifest.dtype!r}. {advice}")
    negative = next((shard for shard in manifest.shards if min(shard.start, shard.tokens) < 0), None)
    if negative is not None:
        raise DataError(f"{expected}, found a shard of {negative.tokens} tokens at {negative.start}. {advice}")
    return {each.name: getattr(manifest, each.name) for each in fields(_Manifest)}


def _check_size(path: Path, expected: int) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found != expected:
        raise DataError(_changed(path, expected, "no such file" if found is None else f"{found} bytes"))


def _changed(path: Path, expected: int, found: str) -> str:
    return (
        f"{path}: expected a shard of {expected} bytes, found {found}. The copy is incomplete or the file was "
        "changed; copy it again, or prepare the data again."
    )


def _digest(path: Path, start: int, size: int) -> str:
    """Return the SHA-256 of a part of a file, which is read and not mapped: a file may be cut while it is read."""
    digest, piece, left = hashlib.sha256(), memoryview(bytearray(min(size, _PIECE_BYTES))), size
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while left and (count := file.readinto(piece[:left])):
                digest.update(piece[:count])
                left -= count
    except OSError as error:
        raise DataError(_changed(path, start + size, error.strerror or str(error))) from None
    if left:
        raise DataError(_changed(path, start + size, f"{start + size - left} bytes"))
    return digest.hexdigest()


def _compare(path: Path, expected: str, found: str) -> None:
    if expected != found:
        raise DataError(
            f"{path}: expected SHA-256 {expected}, found {found}. It was changed after the manifest was "
            "written; copy it again, or prepare the data again."
        )


def tokenizer_places(model: Path, run: Path | None) -> list[Path]:
    """Return the directories to search for a model's tokenizer: its own, its run's model, the run's data."""
    if run is None:
        return [model]
    shards = data_of(run)
    places = [model, run / "model", *([] if shards is None else [shards / TOKENIZER_DIR])]
    return list(dict.fromkeys(places))
