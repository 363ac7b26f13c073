"""Reads texts as a stream of documents: plain text, JSON lines, parquet, data sets of the hub; packed or not."""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TextIO

from grow.common.errors import DataError
from grow.common.inputs import (
    UNPACK_ERRORS,
    DigestedFile,
    Found,
    content_suffix,
    find,
    is_url,
    names_in_list,
    needed,
    opened,
    unpacked,
)
from grow.preparation.findings import Findings

PASSAGE_CHARACTERS = 4096
LONGEST_PASSAGE = 2**18  # characters; text without a blank line is cut there
LONGEST_LINE = 2**26  # characters of a JSON line
MOST_SOURCES = 1000
TEXT_SUFFIXES = (".txt", ".text", ".md")
JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
SUFFIXES = (*TEXT_SUFFIXES, *JSON_SUFFIXES, ".parquet")
HUB = "hf://"
_ROWS = 256  # of a parquet file, read at once
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what bytes that are no UTF-8 become under surrogateescape


class Document(NamedTuple):
    """One text, which is held out or trained on as a whole."""

    text: str
    source: str


class TextFile(NamedTuple):
    """An input to read, and the source of those of its documents that name none themselves."""

    name: str
    """Path, URL, or hf://NAME[/CONFIG][:SPLIT]#PART/PARTS."""
    source: str
    size: int = 0
    version: str = ""
    """Changes when the input does; empty where that is not known."""


def find_texts(inputs: Iterable[str]) -> list[TextFile]:
    """Return the texts that files, directories, patterns, URLs and @LISTs of them name; each once, sorted by name.

    Their source is the name of the file, of the directory, or of the directory in which a pattern matches.

    Raises:
        DataError: an input names no text.
    """
    names = [each for name in inputs for each in (names_in_list(name[1:]) if name[:1] == "@" else [name])]
    found: dict[str, TextFile] = {}
    for name in names:
        files = _hub_parts(name) if name.startswith(HUB) else find(name, lambda each: content_suffix(each) in SUFFIXES)
        if not files:
            raise DataError(
                f"{name}: expected a file, directory or pattern with texts "
                f"({' '.join(SUFFIXES)}, also .gz and .zst), found none. Check the input."
            )
        for each in files:
            found.setdefault(each.name, TextFile(each.name, _source_of(name, each.name), each.size, each.version))
    return sorted(found.values())


class Sources:
    """The sources seen so far; their names are made safe for file names, and no two may become one."""

    def __init__(self) -> None:
        self.safe_names: dict[str, str] = {}
        self._owners: dict[str, str] = {}

    def safe(self, name: str) -> str:
        """Return a source's name with only characters that are safe in file names.

        Raises:
            DataError: another source's name became the same, or there are too many sources.
        """
        if name not in self.safe_names:
            owner = self._owners.setdefault(source_name(name), name)
            if owner != name:
                raise DataError(
                    f"sources {owner!r} and {name!r}: expected names that differ in file names too, found both to be "
                    f"{source_name(name)!r} there. Rename one, or set source_key=null to name them by folder."
                )
            if len(self._owners) > MOST_SOURCES:
                raise DataError(
                    f"expected at most {MOST_SOURCES:,} sources, found more; the last is {name!r}. Set "
                    "source_key=null: the source is then the input's folder."
                )
            self.safe_names[name] = source_name(name)
        return self.safe_names[name]


@dataclass(kw_only=True, slots=True)
class Reader:
    """Reads documents, and keeps what it found on the way."""

    text_key: str = "text"
    source_key: str | None = "source"
    id_key: str = "id"
    findings: Findings = field(default_factory=Findings)
    sources: Sources = field(default_factory=Sources)
    on_bytes: Callable[[int], None] = lambda count: None
    """Told how many bytes of the input were read."""
    digests: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each input that was read to its end."""

    def documents(self, files: Iterable[TextFile]) -> Iterator[Document]:
        """Yield the documents of inputs, in order; empty ones are left out.

        A JSON line or a row is one document, with a text and perhaps a source. Plain text is cut into passages.

        Raises:
            DataError: an input cannot be read; or it is damaged, or a line is no document, and that is refused.
        """
        for file in files:
            before, count = self.findings.counts["empty"], 0
            for document in self._file(file):
                yield document
                count += 1
            if count == 0 and self.findings.counts["empty"] == before:
                self.findings.note("empty", file.name)

    def _file(self, file: TextFile) -> Iterator[Document]:
        if file.name.startswith(HUB):
            yield from self._hub(file)
            return
        with opened(file.name) as raw:
            suffix, digested = content_suffix(file.name), DigestedFile(file.name, raw, self.on_bytes)
            try:
                if suffix == ".parquet":
                    yield from self._parquet(file, raw)
                else:
                    text = io.TextIOWrapper(unpacked(file.name, digested), "utf-8-sig", errors="surrogateescape")
                    yield from self._passages(file, text) if suffix in TEXT_SUFFIXES else self._json_lines(file, text)
            except (*UNPACK_ERRORS, ValueError) as error:
                advice = "Is the file complete?"
                self.findings.refuse("damaged_file", file.name, f"is damaged and cannot be read: {error}.", advice)
            if suffix == ".parquet":
                raw.seek(0)  # it is not read from front to back
            self.digests[file.name] = digested.finish()

    def _passages(self, file: TextFile, text: TextIO) -> Iterator[Document]:
        source = self.sources.safe(self._folder(file))
        for passage in passages(self._valid(file, text)):
            if passage.strip():
                yield Document(passage, source)

    def _valid(self, file: TextFile, text: TextIO) -> Iterator[str]:
        """Yield lines, or parts of longer ones, up to the first that is no UTF-8."""
        number = 1
        for line in iter(partial(text.readline, LONGEST_PASSAGE), ""):
            if self._is_utf8(f"{file.name}:{number}", line):
                yield line
            else:
                return
            number += line.endswith("\n")

    def _is_utf8(self, place: str, line: str) -> bool:
        if line.isascii() or (bad := _NOT_UTF8.search(line)) is None:
            return True
        found = bad[0].encode("utf-8", "surrogateescape")
        advice = "Convert it, for instance: iconv -f LATIN1 -t UTF-8."
        self.findings.refuse("bad_utf8", place, f"expected UTF-8, found {found!r}.", advice)
        return False

    def _json_lines(self, file: TextFile, text: TextIO) -> Iterator[Document]:
        for number, line in enumerate(iter(partial(text.readline, LONGEST_LINE), ""), start=1):
            place = f"{file.name}:{number}"
            if len(line) == LONGEST_LINE:
                found = f"expected lines of less than {LONGEST_LINE:,} characters, found a longer one."
                advice = "Is this one JSON object a line? Cut the document into several."
                self.findings.refuse("bad_line", place, found, advice)
                while not line.endswith("\n") and (line := text.readline(LONGEST_LINE)):
                    pass
            elif line.strip() and self._is_utf8(place, line):
                yield from self._json_line(file, place, line)

    def _json_line(self, file: TextFile, place: str, line: str) -> Iterator[Document]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # also numbers of 5,000 digits, and 5,000 nested brackets
            found, advice = f"expected one JSON object a line, found {error}.", "Mend or remove the line."
            self.findings.refuse("bad_line", place, found, advice)
        else:
            yield from self._row(file, place, row)

    def _row(self, file: TextFile, place: str, row: Any) -> Iterator[Document]:
        text = row.get(self.text_key) if isinstance(row, dict) else None
        if not isinstance(text, str):
            keys = f"keys {sorted(row)} (id {row.get(self.id_key)!r})" if isinstance(row, dict) else type(row).__name__
            found = f"expected an object with a string under {self.text_key!r}, found {keys}."
            self.findings.refuse("bad_line", place, found, "Mend or remove the line, or set text_key.")
        elif not text.strip():
            self.findings.note("empty", place)
        else:
            whole = text.encode("utf-8", "replace").decode()  # JSON can encode half a surrogate pair
            if whole != text:
                self.findings.note("mended", place, "half a surrogate pair")
            name = None if self.source_key is None else row.get(self.source_key)
            yield Document(whole, self.sources.safe(name if isinstance(name, str) else self._folder(file)))

    def _folder(self, file: TextFile) -> str:
        return file.source if self.source_key is not None else PurePosixPath(file.name).parent.name or file.source

    def _parquet(self, file: TextFile, raw: Any) -> Iterator[Document]:
        parquet = needed("pyarrow.parquet", file.name).ParquetFile(raw)
        wanted = {self.text_key, self.source_key, self.id_key}
        columns = [name for name in parquet.schema_arrow.names if name in wanted]
        number = 0
        for batch in parquet.iter_batches(batch_size=_ROWS, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield from self._row(file, f"{file.name}:{number}", row)

    def _hub(self, file: TextFile) -> Iterator[Document]:
        name, _, part = file.name.rpartition("#")
        index, parts = map(int, part.split("/"))
        digest = hashlib.sha256()
        for number, row in enumerate(_hub_stream(name).shard(num_shards=parts, index=index), start=1):
            digest.update(str(row.get(self.text_key)).encode("utf-8", "replace"))
            yield from self._row(file, f"{file.name}:{number}", row)
        self.digests[file.name] = digest.hexdigest()


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


def source_name(name: str) -> str:
    """Return a source's name with only characters that are safe in file names."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "text"


def _source_of(given: str, name: str) -> str:
    if given.startswith(HUB):
        return given.removeprefix(HUB).rstrip("/").rpartition("/")[2].partition(":")[0]
    if given == name:
        return PurePosixPath(name).name.split(".")[0]
    is_directory = Path(given).is_dir() or (is_url(given) and not any(sign in given for sign in "*?["))
    return PurePosixPath(given).name if is_directory else PurePosixPath(name).parent.name


def _hub_parts(name: str) -> list[Found]:
    """Return the parts of a data set of the hub, each of which is read as a file of its own."""
    parts = _hub_stream(name).num_shards
    return [Found(f"{name}#{part}/{parts}", 0, "") for part in range(parts)]


def _hub_stream(name: str) -> Any:
    """Return a data set of the hub, or of a local directory, as a stream of rows."""
    datasets = needed("datasets", name)
    where, _, split = name.removeprefix(HUB).partition(":")
    words = where.split("/")
    path, config = (where, None) if Path(where).is_dir() else ("/".join(words[:2]), "/".join(words[2:]) or None)
    try:
        return datasets.load_dataset(path, config, split=split or "train", streaming=True)
    except Exception as error:  # every builder and the hub raise their own
        raise DataError(f"{name}: expected a data set hf://NAME[/CONFIG][:SPLIT], found: {error}.") from None
