"""Writes the shards of one task: a group of inputs that one process tokenizes. Equal inputs give equal bytes."""

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from grow.common.errors import DataError
from grow.common.provenance import write_json
from grow.common.temporary import to_disk
from grow.data.manifest import DTYPES, SPLITS, Shard, smallest_dtype
from grow.data.tokenizer import vocabulary_size
from grow.preparation.encode import LONG_DOCUMENT, Piece, encode
from grow.preparation.held_out import is_held_out
from grow.preparation.texts import Reader, TextFile

OPEN_FILES = 64
TASKS = "tasks"

Report = Callable[[int, int, int], None]
"""Told of documents, tokens and bytes of input that were done."""


@dataclass(kw_only=True, slots=True, frozen=True)
class ShardTask:
    """One group of inputs, and where its shards go."""

    number: int
    files: list[TextFile]
    directory: Path
    shard_tokens: int
    validation_percent: float

    @property
    def record(self) -> Path:
        """File that says what the task wrote; once it is there the task is done."""
        return self.directory / TASKS / f"{self.number:05d}.json"

    def run(self, reader: Reader, tokenizer: PreTrainedTokenizerFast, report: Report) -> None:
        """Tokenize the inputs and write shards and record; without an error's shards where there is one.

        Raises:
            DataError: an input cannot be read, or is refused.
            OSError: the disk is full.
        """
        self._remove_shards()
        try:
            content = self._write(reader, tokenizer, report)
            write_json(self.record, content)
        except BaseException:
            with suppress(OSError):
                self._remove_shards()
            raise

    def _write(self, reader: Reader, tokenizer: PreTrainedTokenizerFast, report: Report) -> dict[str, Any]:
        writers: dict[tuple[str, str], _Writer] = {}
        files, pending = _AppendedFiles(), 0
        vocab_size = vocabulary_size(tokenizer)

        def count_bytes(size: int) -> None:
            nonlocal pending
            pending += size

        reader.on_bytes = count_bytes
        for piece, tokens in encode(reader.documents(self.files), tokenizer):
            if piece.is_first:
                writer = self._writer(writers, piece, files, vocab_size)
            writer.add(tokens)
            if piece.is_last and len(piece.document.text) > LONG_DOCUMENT:
                reader.findings.note("cut", piece.document.source, f"{len(piece.document.text):,} characters")
            report(piece.is_last, len(tokens), pending)
            pending = 0
        report(0, 0, pending)
        shards = [shard for key in sorted(writers) for shard in writers[key].close()]
        for shard in shards:
            to_disk(self.directory / shard.file)
        inputs = [file._asdict() | {"sha256": reader.digests[file.name]} for file in self.files]
        found = {"findings": reader.findings.record(), "sources": reader.sources.safe_names}
        return {"inputs": inputs, **found, "shards": [asdict(shard) for shard in shards]}

    def _writer(
        self, writers: dict[tuple[str, str], "_Writer"], piece: Piece, files: "_AppendedFiles", vocab_size: int
    ) -> "_Writer":
        """Return the writer of a document's split and source, and begin the document there."""
        key = (SPLITS[is_held_out(piece.document.text, self.validation_percent)], piece.document.source)
        if key not in writers:
            writers[key] = _Writer(files, self, *key, vocab_size)
        writers[key].begin_document()
        return writers[key]

    def _remove_shards(self) -> None:
        own = re.compile(rf".*-{self.number:05d}-\d{{5,}}\.npy")
        for split in SPLITS:
            (self.directory / split).mkdir(exist_ok=True)
            for path in (self.directory / split).iterdir():
                if own.fullmatch(path.name):
                    path.unlink()


class _AppendedFiles:
    """Files that are written piece by piece, of which only the latest used stay open: a process may open few."""

    def __init__(self) -> None:
        self._open: dict[Path, BinaryIO] = {}

    def append(self, path: Path, raw: bytes) -> None:
        file = self._open.pop(path, None) or path.open("ab")
        self._open[path] = file  # as the last, which is the latest used
        file.write(raw)
        if len(self._open) > OPEN_FILES:
            self.close(next(iter(self._open)))

    def close(self, path: Path) -> None:
        if path in self._open:
            self._open.pop(path).close()


class _Writer:
    """Appends documents to the shard files of one split and source, and begins the next file above a size."""

    def __init__(self, files: _AppendedFiles, task: ShardTask, split: str, source: str, vocab_size: int) -> None:
        self._files, self._task, self._split, self._source = files, task, split, source
        self._dtype, self._vocab_size = DTYPES[smallest_dtype(vocab_size)], vocab_size
        self._done: list[Shard] = []
        self._begin()

    def begin_document(self) -> None:
        """Begin the next file where this one is full; a document is never divided between two."""
        if self._tokens >= self._task.shard_tokens:
            self._finish()
            self._begin()
        self._documents += 1

    def add(self, ids: NDArray[np.int64]) -> None:
        if len(ids) and ids.max() >= self._vocab_size:
            raise DataError(f"token id {ids.max()}: expected ids below the vocabulary's size of {self._vocab_size}.")
        raw = ids.astype(self._dtype).tobytes()
        self._files.append(self._task.directory / self._name, raw)
        self._digest.update(raw)
        self._tokens += len(ids)

    def close(self) -> list[Shard]:
        """Finish the last file and return all shards that were written."""
        self._finish()
        return self._done

    def _begin(self) -> None:
        self._name = f"{self._split}/{self._source}-{self._task.number:05d}-{len(self._done):05d}.npy"
        self._digest = hashlib.sha256()
        self._tokens = self._documents = 0

    def _finish(self) -> None:
        self._files.close(self._task.directory / self._name)
        self._done.append(
            Shard(
                file=self._name,
                split=self._split,
                source=self._source,
                start=0,
                tokens=self._tokens,
                sha256=self._digest.hexdigest(),
                documents=self._documents,
            )
        )
