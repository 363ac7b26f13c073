"""Reads texts on disk as a stream of documents: plain text and Dolma's JSON lines, gzipped or not."""

import glob
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

from grow.common.errors import DataError

PASSAGE_CHARACTERS = 4096
LONGEST_PASSAGE = 2**18  # characters; text without a blank line is cut there
LONGEST_LINE = 2**26  # characters of a JSON line
TEXT_SUFFIXES = (".txt", ".text", ".md")
JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
PACKED_SUFFIXES = (".gz", ".zst")
GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

Track = Callable[[BinaryIO], BinaryIO]
"""Function that wraps an open file to show how far it was read."""


class Document(NamedTuple):
    """One text, which is held out or trained on as a whole."""

    text: str
    source: str


@dataclass(slots=True, frozen=True)
class TextFile:
    """A file to read, and the source of those of its documents that name none themselves."""

    path: Path
    source: str


def find_texts(inputs: Iterable[str]) -> list[TextFile]:
    """Return the text files that files, directories and glob patterns name.

    Their source is the name of the file, of the directory, or of the directory in which a pattern matches.

    Raises:
        DataError: an input names no text file.
    """
    found: dict[Path, TextFile] = {}
    for name in inputs:
        files = sorted(_expand(name))
        if not files:
            raise DataError(
                f"{name}: expected a file, directory or pattern with texts "
                f"({' '.join(TEXT_SUFFIXES + JSON_SUFFIXES)}, also .gz), found none. Check the input."
            )
        for path in files:
            found.setdefault(path, TextFile(path, _source_of(name, path)))
    return list(found.values())


def read_documents(files: Iterable[TextFile], track: Track = lambda file: file) -> Iterator[Document]:
    """Yield the documents of text files, in order; empty ones are left out.

    A JSON line is one document, with `text` and perhaps `source`. Plain text is cut into passages.

    Raises:
        DataError: a file cannot be read, is not UTF-8, or has a line that is not a document.
    """
    for file in files:
        read = _passages if _kind(file.path) in TEXT_SUFFIXES else _json_lines
        try:
            with file.path.open("rb") as raw:
                yield from (document for document in read(file, _text(file.path, track(raw))) if document.text.strip())
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file.path}: expected UTF-8, found {error.object[error.start : error.end]!r}. "
                "Convert it, for instance: iconv -f LATIN1 -t UTF-8."
            ) from None
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file.path}: cannot be read: {error}. Is the file complete?") from None


def passages(lines: Iterable[str]) -> Iterator[str]:
    """Cut continuous text at blank lines into pieces of about PASSAGE_CHARACTERS, and of at most LONGEST_PASSAGE.

    Args:
        lines: Lines, or parts of longer ones, of at most LONGEST_PASSAGE characters.
    """
    passage: list[str] = []
    characters = 0
    for line in lines:
        if characters + len(line) > LONGEST_PASSAGE:
            yield "".join(passage).strip("\n")
            passage, characters = [], 0
        passage.append(line)
        characters += len(line)
        if characters >= PASSAGE_CHARACTERS and not line.strip():
            yield "".join(passage).strip("\n")
            passage, characters = [], 0
    yield "".join(passage).strip("\n")


def _expand(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return [file for file in path.rglob("*") if file.is_file() and _kind(file) is not None]
    candidates = [path] if path.is_file() else [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207, absolute patterns too
    return [file for file in candidates if file.is_file() and _kind(file) is not None]


def _kind(path: Path) -> str | None:
    """Return the suffix of a file's content, without that of its compression; None where it is not a text."""
    suffixes = [suffix for suffix in path.suffixes if suffix not in PACKED_SUFFIXES]
    return suffixes[-1] if suffixes and suffixes[-1] in TEXT_SUFFIXES + JSON_SUFFIXES else None


def _source_of(name: str, path: Path) -> str:
    exact = Path(name)
    named = exact.name if exact.is_dir() else path.name.split(".")[0] if exact.is_file() else path.parent.name
    return source_name(named)


def source_name(name: str) -> str:
    """Return a source's name with only characters that are safe in file names."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "text"


def _text(path: Path, raw: BinaryIO) -> TextIO:
    """Return the text of a file, to be read; its first bytes, not its name, decide whether it is decompressed."""
    buffered = io.BufferedReader(raw)  # type: ignore[type-var]
    magic = buffered.peek(4)[:4]
    if magic == ZSTD_MAGIC:
        raise DataError(f"{path}: expected text or gzip, found zstd. Unpack it first: zstd -d {path.name}")
    unpacked = gzip.GzipFile(fileobj=buffered) if magic[:2] == GZIP_MAGIC else buffered
    return io.TextIOWrapper(unpacked, encoding="utf-8-sig")


def _passages(file: TextFile, text: TextIO) -> Iterator[Document]:
    lines = iter(partial(text.readline, LONGEST_PASSAGE), "")
    return (Document(passage, file.source) for passage in passages(lines))


def _json_lines(file: TextFile, text: TextIO) -> Iterator[Document]:
    for number, line in enumerate(iter(partial(text.readline, LONGEST_LINE), ""), start=1):
        place = f"{file.path}:{number}"
        if len(line) == LONGEST_LINE:
            raise DataError(
                f"{place}: expected lines of less than {LONGEST_LINE:,} characters, found a longer one. Is this one "
                "JSON object a line? Cut the document into several."
            )
        if line.strip():
            yield _document(file, place, line)


def _document(file: TextFile, place: str, line: str) -> Document:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also numbers of 5,000 digits, and 5,000 nested brackets
        raise DataError(f"{place}: expected one JSON object a line, found {error}. Mend or remove the line.") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        found = f"keys {sorted(row)}" if isinstance(row, dict) else type(row).__name__
        raise DataError(
            f"{place}: expected an object with a string under 'text', found {found}. Mend or remove the line."
        )
    source = row.get("source")
    text = row["text"].encode("utf-8", "replace").decode()  # JSON can encode half a surrogate pair
    return Document(text, source_name(source) if isinstance(source, str) else file.source)
