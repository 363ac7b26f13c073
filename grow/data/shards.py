"""Token shards on disk: raw little-endian token ids, and a manifest.json that describes them.

DIRECTORY/manifest.json          dtype, vocabulary, end-of-text id, tokenizer digest, every shard with its digest
DIRECTORY/tokenizer/             tokenizer for AutoTokenizer
DIRECTORY/train/*.npy            token ids and nothing else, as Dolma and OLMo write them; an eos ends a document
DIRECTORY/validation/*.npy       documents that are never trained on
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grow.common.errors import DataError
from grow.common.provenance import data_of
from grow.data.manifest import DTYPES, TOKENIZER_DIR, Shard, read_manifest, tokenizer_digest
from grow.data.sample import check_sample
from grow.data.shard_files import ShardFiles
from grow.data.windows import Windows

_PIECE_TOKENS = 2**22  # read at once when documents are told apart
_PIECE_BYTES = 8 * 2**20  # read at once when a digest is computed


@dataclass(kw_only=True, slots=True, frozen=True)
class TokenShards:
    """A directory of token shards, opened and checked; tokens are not read into memory."""

    path: Path
    files: Path
    """Directory that the shards' paths are relative to."""
    digest: str
    """SHA-256 that stands for the data: equal digests mean equal data."""
    dtype: str
    vocab_size: int
    """Every token id is below this."""
    eos_id: int
    tokenizer_sha256: str
    shards: tuple[Shard, ...]
    warning: str | None = None
    """What a sample of the tokens makes doubtful; None where nothing."""
    _reads: ShardFiles = field(default_factory=ShardFiles, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Path) -> "TokenShards":
        """Open a directory of shards: compare sizes and tokenizer with the manifest, and read a sample of the tokens.

        Raises:
            DataError: the manifest or a shard is missing, damaged, truncated or of another format, or the tokens or the
                tokenizer are not those that the manifest describes.
        """
        found = cls.described(path)
        found._check_sizes()
        if (found.tokenizer_dir / "tokenizer.json").is_file():
            found.check_tokenizer()
        warning = check_sample(
            found.shards, found.read, files=found.files, vocab_size=found.vocab_size, eos_id=found.eos_id
        )
        return replace(found, warning=warning)

    @classmethod
    def described(cls, path: str | Path) -> "TokenShards":
        """Return what the manifest describes, of which nothing else is looked at.

        Raises:
            DataError: the manifest is missing, damaged or of another format.
        """
        path = Path(path)
        manifest, digest = read_manifest(path)
        return cls(
            path=path,
            files=path / (manifest.root or ""),
            digest=digest,
            dtype=manifest.dtype,
            vocab_size=manifest.vocab_size,
            eos_id=manifest.eos_id,
            tokenizer_sha256=manifest.tokenizer_sha256,
            shards=manifest.shards,
        )

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
        return sum(shard.tokens * shard.repeats for shard in self.of_split(split) if source in (None, shard.source))

    def windows(self, split: str, sequence_length: int, source: str | None = None) -> Windows:
        """Return the windows of `sequence_length` + 1 tokens of a split, of all sources or of one."""
        own = [shard for shard in self.of_split(split) if source in (None, shard.source)]
        return Windows(
            own, files=self._reads, root=self.files, dtype=DTYPES[self.dtype], sequence_length=sequence_length
        )

    def read(self, shard: Shard, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return a shard's tokens from `start` to before `stop`, or to its end: (tokens,).

        Raises:
            DataError: the file was cut after the shards were opened, or cannot be read.
        """
        dtype = DTYPES[self.dtype]
        count = (shard.tokens if stop is None else stop) - start
        place = (str(self.files / shard.file), (shard.start + start) * dtype.itemsize)
        return np.frombuffer(self._reads.read([place], count * dtype.itemsize), dtype)

    def documents(self, shard: Shard) -> Iterator[NDArray[Any]]:
        """Yield the tokens of each document of a shard, its eos included; the last one may have none."""
        rest = np.empty(0, DTYPES[self.dtype])
        for start in range(0, shard.tokens, _PIECE_TOKENS):
            tokens = self.read(shard, start, min(start + _PIECE_TOKENS, shard.tokens))
            *whole, rest = np.split(
                np.concatenate((rest, tokens)), np.flatnonzero(tokens == self.eos_id) + len(rest) + 1
            )
            yield from whole
        if len(rest):
            yield rest

    def bytes_of(self, shard: Shard) -> int:
        """Return the size of a shard's tokens in bytes."""
        return shard.tokens * DTYPES[self.dtype].itemsize

    def check(self, shard: Shard) -> None:
        """Read a shard once and compare it with the manifest's digest.

        Raises:
            DataError: the shard is not what it was when the manifest was written, or cannot be read.
        """
        path = self.files / shard.file
        found = _digest(path, shard.start * DTYPES[self.dtype].itemsize, self.bytes_of(shard))
        _compare(path, shard.sha256, found)

    def verify(self) -> None:
        """Read all shards and the tokenizer once and compare them with the manifest's digests.

        Raises:
            DataError: a shard or the tokenizer is not what it was when the manifest was written.
        """
        for shard in self.shards:
            self.check(shard)
        self.check_tokenizer()

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

    def check_tokenizer(self) -> None:
        """Refuse a tokenizer that is not the manifest's.

        Raises:
            DataError: it was changed.
        """
        _compare(self.tokenizer_dir, self.tokenizer_sha256, tokenizer_digest(self.tokenizer_dir))

    def _check_sizes(self) -> None:
        itemsize = DTYPES[self.dtype].itemsize
        ends: dict[str, int] = {}
        for shard in self.shards:
            ends[shard.file] = max(ends.get(shard.file, 0), shard.start + shard.tokens)
        for file, tokens in ends.items():
            _check_size(f"{self.files}/{file}", tokens * itemsize)


def _check_size(path: str, expected: int) -> None:
    try:
        status = os.stat(path)  # noqa: PTH116  # a Path for each of tens of thousands of files takes long
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise DataError(_changed(path, expected, "no such file" if missing else str(error.strerror))) from None
    if status.st_size != expected or not stat.S_ISREG(status.st_mode):
        raise DataError(_changed(path, expected, f"{status.st_size} bytes"))


def _changed(path: Path | str, expected: int, found: str) -> str:
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
