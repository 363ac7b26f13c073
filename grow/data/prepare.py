"""Prepares token shards from documents: hold out, tokenize, write. The same documents give the same bytes."""

import errno
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text
from transformers import PreTrainedTokenizerFast

from grow.common.errors import DataError
from grow.common.temporary import publish, temporary_directory
from grow.data.encode import PIECE_CHARACTERS, cut, encode
from grow.data.manifest import DTYPES, SPLITS, TOKENIZER_DIR, Shard, smallest_dtype, write_manifest
from grow.data.shards import TokenShards
from grow.data.texts import Document, Track, find_texts, read_documents
from grow.data.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer, vocabulary_size

VALIDATION_PERCENT = 5
TOKENIZER_CHARACTERS = 200_000_000  # most characters to train a tokenizer on
OPEN_FILES = 64

Documents = Callable[[Track], Iterator[Document]]
"""Starts a new pass over the same documents."""


def prepare_files(
    inputs: list[str], output: Path, *, tokenizer: str | None, vocab_size: int | None, shard_tokens: int
) -> TokenShards:
    """Tokenize text files into a new directory of shards.

    Args:
        inputs: Files, directories and glob patterns (see grow/data/texts.py).
        output: Directory to make.
        tokenizer: Directory or hub id of a tokenizer; None trains one of `vocab_size` entries on the texts.
        vocab_size: Entries of the tokenizer to train.
        shard_tokens: Tokens after which the next shard file is begun.

    Raises:
        DataError: an input is missing or damaged, the output exists, or the disk is full.
    """
    files = find_texts(inputs)
    size = sum(file.path.stat().st_size for file in files)
    return prepare(
        lambda track: read_documents(files, track),
        output,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        shard_tokens=shard_tokens,
        input_bytes=size,
    )


def prepare(
    documents: Documents,
    output: Path,
    *,
    tokenizer: str | None,
    vocab_size: int | None,
    shard_tokens: int,
    input_bytes: int | None = None,
) -> TokenShards:
    """Tokenize documents into a new directory of shards, as `prepare_files`.

    Raises:
        DataError: there are too few documents, the output exists, or the disk is full.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise DataError(f"{output}: expected nothing, found a file or directory. Remove it or choose another output.")
    with _renamed_when_complete(output) as partial, _progress() as progress:
        if tokenizer is not None:
            encoder = load_tokenizer(tokenizer)
        else:
            encoder = _train(documents, vocab_size or 0, progress, input_bytes)
        save_tokenizer(encoder, partial / TOKENIZER_DIR)
        _write_shards(documents, encoder, partial, shard_tokens, progress, input_bytes)
    return TokenShards.open(output)


def is_held_out(text: str) -> bool:
    """Return whether a document is held out for validation: a fixed 5 % by hash, so equal texts are in one split."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "little") % 100 < VALIDATION_PERCENT


@contextmanager
def _renamed_when_complete(output: Path) -> Iterator[Path]:
    """Yield a temporary directory to write to, which is renamed to `output` at the end and removed after an error.

    Raises:
        DataError: it cannot be written, or another process made `output` meanwhile.
    """
    try:
        with temporary_directory(output) as partial:
            yield partial
            publish(partial, output)
    except OSError as error:
        raise DataError(_write_failure(output, error)) from None


def _write_failure(output: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{output}: the disk is full; what was written has been removed. Free space or choose another output."
    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
        return f"{output}: expected nothing, found a directory that another process made meanwhile. Use that one."
    return f"{output}: cannot be written: {error}. Choose another output."


class _Rate(ProgressColumn):
    """Shows documents and tokens so far, and tokens per second."""

    def render(self, task: Task) -> Text:
        documents, tokens = task.fields["documents"], task.fields["tokens"]
        rate = f" · {tokens / task.elapsed:,.0f}/s" if tokens and task.elapsed else ""
        return Text(f"{documents:,} documents · {tokens:,} tokens{rate}")


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(12), _Rate(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


class _Pass:
    """One pass over the documents, with its progress bar."""

    def __init__(self, progress: Progress, description: str, input_bytes: int | None) -> None:
        self._progress = progress
        self._bytes = input_bytes
        self._task = progress.add_task(description, total=input_bytes, documents=0, tokens=0)
        self.documents = self._tokens = 0

    def track(self, file: BinaryIO) -> BinaryIO:
        """Wrap a file so that the bar follows how far it is read."""
        return self._progress.wrap_file(file, total=self._bytes, task_id=self._task)

    def count(self, documents: int, tokens: int) -> None:
        self.documents += documents
        self._tokens += tokens
        self._progress.update(self._task, documents=self.documents, tokens=self._tokens)


def _train(documents: Documents, vocab_size: int, progress: Progress, size: int | None) -> PreTrainedTokenizerFast:
    bar = _Pass(progress, "train tokenizer", size)

    def texts() -> Iterator[str]:
        characters = 0
        for document in documents(bar.track):
            if characters > TOKENIZER_CHARACTERS:
                return
            bar.count(1, 0)
            if not is_held_out(document.text):
                characters += len(document.text)
                yield from cut(document.text, PIECE_CHARACTERS)

    return train_tokenizer(texts(), vocab_size)


def _write_shards(
    documents: Documents,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    shard_tokens: int,
    progress: Progress,
    input_bytes: int | None,
) -> None:
    """Write all shards and the manifest; the tokenizer must have been saved before."""
    eos_id, vocab_size = int(tokenizer.eos_token_id), vocabulary_size(tokenizer)
    dtype = smallest_dtype(vocab_size)
    writers: dict[tuple[str, str], _Writer] = {}
    files, bar = _AppendedFiles(), _Pass(progress, "write shards", input_bytes)
    for piece, tokens in encode(documents(bar.track), tokenizer):
        if piece.is_first:
            key = (SPLITS[is_held_out(piece.document.text)], piece.document.source)
            if key not in writers:
                writers[key] = _Writer(files, directory, *key, dtype, vocab_size, shard_tokens)
            writers[key].begin_document()
        writers[key].add(tokens)
        bar.count(piece.is_last, len(tokens))
    shards = [shard for key in sorted(writers) for shard in writers[key].close()]
    _check_splits(shards, bar)
    write_manifest(directory, dtype=dtype, vocab_size=vocab_size, eos_id=eos_id, shards=shards)


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

    def __init__(
        self,
        files: _AppendedFiles,
        directory: Path,
        split: str,
        source: str,
        dtype: str,
        vocab_size: int,
        shard_tokens: int,
    ) -> None:
        (directory / split).mkdir(exist_ok=True)
        self._files, self._directory, self._split, self._source = files, directory, split, source
        self._dtype, self._vocab_size, self._shard_tokens = DTYPES[dtype], vocab_size, shard_tokens
        self._done: list[Shard] = []
        self._begin()

    def begin_document(self) -> None:
        """Begin the next file where this one is full; a document is never divided between two."""
        if self._tokens >= self._shard_tokens:
            self._finish()
            self._begin()

    def add(self, ids: NDArray[np.int64]) -> None:
        if ids.max() >= self._vocab_size:
            raise DataError(f"token id {ids.max()}: expected ids below the vocabulary's size of {self._vocab_size}.")
        raw = ids.astype(self._dtype).tobytes()
        self._files.append(self._directory / self._name, raw)
        self._digest.update(raw)
        self._tokens += len(ids)

    def close(self) -> list[Shard]:
        """Finish the last file and return all shards that were written."""
        self._finish()
        return self._done

    def _begin(self) -> None:
        self._name = f"{self._split}/{self._source}-{len(self._done):05d}.npy"
        self._digest = hashlib.sha256()
        self._tokens = 0

    def _finish(self) -> None:
        self._files.close(self._directory / self._name)
        self._done.append(
            Shard(
                file=self._name,
                split=self._split,
                source=self._source,
                start=0,
                tokens=self._tokens,
                sha256=self._digest.hexdigest(),
            )
        )


def _check_splits(shards: list[Shard], bar: _Pass) -> None:
    missing = [split for split in SPLITS if not any(shard.split == split for shard in shards)]
    if missing:
        raise DataError(
            f"expected documents for training and for validation, found {bar.documents} documents, none of them for "
            f"{missing[0]} ({VALIDATION_PERCENT} % are held out by hash). Give more, or shorter, documents."
        )
