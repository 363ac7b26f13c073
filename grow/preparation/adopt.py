"""Writes a manifest for token shards that exist: those of Dolma and OLMo, of Megatron, and of datatrove."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from grow.common.errors import DataError
from grow.common.inputs import names_in_list
from grow.common.work_bar import WorkBar
from grow.data.manifest import DTYPES, MANIFEST_FILE, SPLITS, TOKENIZER_DIR, Shard, write_manifest
from grow.data.shards import TokenShards
from grow.data.tokenizer import load_tokenizer, save_tokenizer, vocabulary_size
from grow.preparation.foreign_index import SUFFIXES, TokenFile, token_file
from grow.preparation.texts import Sources

CHUNK_TOKENS = 2**22


class _Facts(NamedTuple):
    """What the tokens have to agree with."""

    vocab_size: int
    eos_id: int


def adopt(
    directory: Path,
    *,
    tokenizer: str,
    dtype: str | None,
    validation_tokens: int | None,
    vocab_size: int | None = None,
    eos_id: int | None = None,
    output: Path | None = None,
    mix: Path | None = None,
    workers: int = 1,
) -> TokenShards:
    """Check every token of a directory's files and write the manifest that makes them readable.

    The last documents of every source become the validation split: about `validation_tokens` over all sources, each in
    proportion to its size. Without `mix` the source is the nearest folder that is not the same for all files.

    Args:
        directory: Directory with the files, at any depth.
        tokenizer: Directory or hub id of the tokenizer that the shards were made with.
        dtype: Type of the tokens, uint16 or uint32; None takes that of Megatron's index.
        validation_tokens: Tokens to hold out.
        vocab_size: Size of the vocabulary, above every id; None takes the tokenizer's.
        eos_id: Token id that ends each document; None takes the tokenizer's.
        output: Directory for manifest and tokenizer; None takes `directory`, to which nothing is written otherwise.
        mix: File of `label,path` lines as in OLMo-core: a path is one of `directory`, with {TOKENIZER} for any folder,
            and is read as often as it is listed.
        workers: Files that are read at once.

    Raises:
        DataError: there is a manifest already, or the files do not match these arguments.
    """
    target = output or directory
    if (target / MANIFEST_FILE).exists():
        raise DataError(f"{target}: has a {MANIFEST_FILE} already. Use it, or remove it to adopt the shards anew.")
    encoder = load_tokenizer(tokenizer)
    facts = _Facts(vocab_size or vocabulary_size(encoder), int(encoder.eos_token_id) if eos_id is None else eos_id)
    sources, repeats = _listed(directory, mix) if mix else _found(directory)
    files = [token_file(path, dtype) for path in sources]
    if len({file.dtype for file in files}) > 1:
        raise DataError(f"{directory}: expected tokens of one type, found uint16 and uint32. Adopt them apart.")
    cuts = dict(_cuts(files, sources, facts.eos_id, validation_tokens or 0))
    shards: list[Shard] = []
    with WorkBar("adopt", sum(file.path.stat().st_size for file in files)) as bar, ThreadPoolExecutor(workers) as pool:
        for file, parts in zip(files, pool.map(partial(_read, cuts=cuts, facts=facts), files), strict=True):
            bar.add(sum(part.documents for part in parts), file.tokens, file.path.stat().st_size)
            shards += _shards(directory, file, parts, sources[file.path], repeats[file.path])
    shards.sort(key=lambda shard: (shard.file, shard.start))
    _check_splits(directory, shards, validation_tokens or 0)
    target.mkdir(parents=True, exist_ok=True)
    save_tokenizer(encoder, target / TOKENIZER_DIR)
    root = None if output is None else str(directory.resolve())
    write_manifest(
        target, dtype=files[0].dtype, vocab_size=facts.vocab_size, eos_id=facts.eos_id, shards=shards, root=root
    )
    return TokenShards.open(target)


def _found(directory: Path) -> tuple[dict[Path, str], Counter[Path]]:
    """Return the source of each token file of a directory, and how often it is read."""
    files = sorted(path for path in directory.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    if not files:
        raise DataError(f"{directory}: expected .npy shards (or .bin, .ds), found none. Check adopt=DIRECTORY.")
    folders = [list(reversed(path.resolve().parent.parts)) for path in files]  # the nearest first
    levels = range(min(map(len, folders)))
    level = next((level for level in levels if len({parts[level] for parts in folders}) > 1), 0)
    names = Sources()
    return {path: names.safe(parts[level]) for path, parts in zip(files, folders, strict=True)}, Counter(files)


def _listed(directory: Path, mix: Path) -> tuple[dict[Path, str], Counter[Path]]:
    sources: dict[Path, str] = {}
    repeats: Counter[Path] = Counter()
    names = Sources()
    for line in names_in_list(str(mix)):
        label, _, name = (word.strip() for word in line.partition(","))
        patterns = {name.replace("{TOKENIZER}", folder).lstrip("/") for folder in ("*", "*/*")}
        matches = [path for pattern in patterns if pattern for path in directory.glob(pattern)]
        if len(matches) != 1 or sources.setdefault(matches[0], names.safe(label)) != names.safe(label):
            raise DataError(
                f"{mix}: {line}: expected `label,path` with the path of one file of one label in {directory}, found "
                f"{len(matches)} files."
            )
        repeats[matches[0]] += 1
    if not sources:
        raise DataError(f"{mix}: expected lines `label,path`, found none.")
    return dict(sorted(sources.items())), repeats


class _Part(NamedTuple):
    """What was read of one split's part of a file."""

    split: str
    start: int
    tokens: int
    documents: int
    sha256: str


def _read(file: TokenFile, *, cuts: Mapping[Path, int], facts: _Facts) -> list[_Part]:
    """Read a file once, refuse tokens that do not fit dtype, vocabulary or end-of-text id, and return its parts."""
    cut, highest, parts = cuts[file.path], 0, []
    for split, start, end in (("train", 0, cut), ("validation", cut, file.tokens)):
        digest, documents = hashlib.sha256(), 0
        for place in range(start, end, CHUNK_TOKENS):
            chunk = _tokens(file, place, min(CHUNK_TOKENS, end - place))
            if place == 0:
                _refuse_four_bytes(file, chunk)
            highest = max(highest, int(chunk.max()))
            documents += int((chunk == facts.eos_id).sum())
            digest.update(chunk.data)
            _compare_with_index(file, place, chunk, facts.eos_id)
        if start < end:
            parts.append(_Part(split, start, end - start, documents, digest.hexdigest()))
    if highest >= facts.vocab_size:
        raise DataError(
            f"{file.path}: expected token ids below vocab_size={facts.vocab_size}, found {highest}. "
            "Is dtype right, and is this the tokenizer that made the shards?"
        )
    if not any(part.documents for part in parts):
        raise DataError(
            f"{file.path}: expected documents that end in eos_id={facts.eos_id}, found no such token among "
            f"{file.tokens}. Set the eos_id that the shards were made with (OLMo's differ between tokenizers: 0 and "
            "50279)."
        )
    return parts


def _tokens(file: TokenFile, start: int, count: int) -> NDArray[Any]:
    dtype = DTYPES[file.dtype]
    return np.fromfile(file.path, dtype, count, offset=start * dtype.itemsize)


def _refuse_four_bytes(file: TokenFile, chunk: NDArray[Any]) -> None:
    if chunk.dtype.itemsize == 2 and len(chunk) > 1 and not chunk[1::2].any():
        raise DataError(
            f"{file.path}: expected uint16 tokens, found every other one 0, as in uint32. Set dtype=uint32."
        )


def _compare_with_index(file: TokenFile, start: int, chunk: NDArray[Any], eos_id: int) -> None:
    """Refuse a file in which a document that the index names does not end in an eos."""
    if file.ends is None:
        return
    first, stop = np.searchsorted(file.ends, [start + 1, start + len(chunk) + 1])
    wrong = [end for end in file.ends[first:stop].tolist() if chunk[end - 1 - start] != eos_id]
    if wrong:
        raise DataError(
            f"{file.path}: expected eos_id={eos_id} at token {wrong[0] - 1}, where the index ends a document, found "
            f"{chunk[wrong[0] - 1 - start]}. Set the eos_id, or write the shards with an end of text."
        )


def _cuts(
    files: list[TokenFile], sources: Mapping[Path, str], eos_id: int, validation_tokens: int
) -> Iterator[tuple[Path, int]]:
    """Yield where validation begins in each file."""
    total = sum(file.tokens for file in files)
    in_sources = sorted(files, key=lambda file: (sources[file.path], file.path))
    for _, group in groupby(in_sources, key=lambda file: sources[file.path]):
        own = list(group)
        to_hold = validation_tokens * sum(file.tokens for file in own) // total
        for file in reversed(own):
            cut = _cut(file, to_hold, eos_id)
            yield file.path, cut
            to_hold = max(to_hold - file.tokens, 0) if cut == 0 else 0


def _cut(file: TokenFile, to_hold: int, eos_id: int) -> int:
    """Return where validation begins: after the first document that ends in the last `to_hold` tokens."""
    start = file.tokens - to_hold
    if start <= 0 or to_hold == 0:
        return max(start, 0)
    for place in range(start - 1, file.tokens, CHUNK_TOKENS):
        ends = np.flatnonzero(_tokens(file, place, CHUNK_TOKENS) == eos_id)
        if len(ends):
            return place + 1 + int(ends[0])
    return file.tokens


def _shards(directory: Path, file: TokenFile, parts: list[_Part], source: str, repeats: int) -> Iterator[Shard]:
    for part in parts:
        yield Shard(
            file=file.path.relative_to(directory).as_posix(),
            split=part.split,
            source=source,
            start=part.start,
            tokens=part.tokens,
            sha256=part.sha256,
            documents=part.documents,
            repeats=repeats if part.split == "train" else 1,
        )


def _check_splits(directory: Path, shards: list[Shard], validation_tokens: int) -> None:
    found = {split: sum(shard.tokens for shard in shards if shard.split == split) for split in SPLITS}
    if 0 in found.values():
        raise DataError(
            f"{directory}: expected documents for training and for validation, found {found['train']} and "
            f"{found['validation']} tokens of them. Change validation_tokens={validation_tokens}."
        )
