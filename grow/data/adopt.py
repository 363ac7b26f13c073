"""Writes a manifest for existing token shards: raw `.npy` files in the format of Dolma and OLMo."""

import hashlib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grow.common.errors import DataError
from grow.data.manifest import DTYPES, MANIFEST_FILE, SPLITS, TOKENIZER_DIR, Shard, write_manifest
from grow.data.shards import TokenShards
from grow.data.texts import source_name
from grow.data.tokenizer import load_tokenizer, save_tokenizer, vocabulary_size

CHUNK_TOKENS = 2**24
NUMPY_MAGIC = b"\x93NUMPY"


def adopt(
    directory: Path,
    *,
    tokenizer: str,
    dtype: str,
    validation_tokens: int,
    vocab_size: int | None = None,
    eos_id: int | None = None,
) -> TokenShards:
    """Check every token of a directory's `.npy` files and write the manifest that makes them readable.

    The last documents of every source (a folder) become the validation split: about `validation_tokens` over all
    sources, each in proportion to its size.

    Args:
        directory: Directory with the files, at any depth; the manifest and the tokenizer are written into it.
        tokenizer: Directory or hub id of the tokenizer that the shards were made with.
        dtype: Type of the tokens, uint16 or uint32.
        validation_tokens: Tokens to hold out.
        vocab_size: Size of the vocabulary, above every id; None takes the tokenizer's.
        eos_id: Token id that ends each document; None takes the tokenizer's.

    Raises:
        DataError: there is a manifest already, or the files do not match these arguments.
    """
    if (directory / MANIFEST_FILE).exists():
        raise DataError(f"{directory}: has a {MANIFEST_FILE} already. Use it, or remove it to adopt the shards anew.")
    encoder = load_tokenizer(tokenizer)
    vocab_size = vocabulary_size(encoder) if vocab_size is None else vocab_size
    eos_id = int(encoder.eos_token_id) if eos_id is None else eos_id
    files = sorted(directory.rglob("*.npy"))
    if not files:
        raise DataError(f"{directory}: expected .npy shards, found none. Check adopt=DIRECTORY.")
    arrays = {file: _open(file, dtype) for file in files}
    for file, tokens in arrays.items():
        _check_tokens(file, tokens, vocab_size, eos_id)
    shards = sorted(_shards(directory, arrays, eos_id, validation_tokens), key=lambda shard: (shard.file, shard.start))
    _check_splits(directory, shards, validation_tokens)
    save_tokenizer(encoder, directory / TOKENIZER_DIR)
    write_manifest(directory, dtype=dtype, vocab_size=vocab_size, eos_id=eos_id, shards=shards)
    return TokenShards.open(directory)


def _open(file: Path, dtype: str) -> NDArray[Any]:
    with file.open("rb") as raw:
        if raw.read(len(NUMPY_MAGIC)) == NUMPY_MAGIC:
            raise DataError(
                f"{file}: expected raw token ids, found a file of numpy.save. Write it with ndarray.tofile."
            )
    size, itemsize = file.stat().st_size, DTYPES[dtype].itemsize
    if size == 0 or size % itemsize:
        raise DataError(
            f"{file}: expected {dtype} tokens of {itemsize} bytes, found {size} bytes. Is the copy complete?"
        )
    return np.asarray(np.memmap(file, DTYPES[dtype], mode="r"))


def _check_tokens(file: Path, tokens: NDArray[Any], vocab_size: int, eos_id: int) -> None:
    """Refuse tokens that do not fit the given dtype, vocabulary or end-of-text id, as they would train on garbage."""
    highest, documents = 0, 0
    for start in range(0, len(tokens), CHUNK_TOKENS):
        chunk = tokens[start : start + CHUNK_TOKENS]
        highest = max(highest, int(chunk.max()))
        documents += int((chunk == eos_id).sum())
    if highest >= vocab_size:
        raise DataError(
            f"{file}: expected token ids below vocab_size={vocab_size}, found {highest}. "
            "Is dtype right, and is this the tokenizer that made the shards?"
        )
    if tokens.dtype.itemsize == 2 and len(tokens) > 1 and not tokens[1:CHUNK_TOKENS:2].any():
        raise DataError(f"{file}: expected uint16 tokens, found every other one 0, as in uint32. Set dtype=uint32.")
    if documents == 0:
        raise DataError(
            f"{file}: expected documents that end in eos_id={eos_id}, found no such token among {len(tokens)}. "
            "Set the eos_id that the shards were made with (OLMo's differ between tokenizers: 0 and 50279)."
        )


def _shards(directory: Path, arrays: dict[Path, NDArray[Any]], eos_id: int, validation_tokens: int) -> Iterator[Shard]:
    """Yield every file's tokens as shards: the first part for training, the rest for validation."""
    total = sum(len(tokens) for tokens in arrays.values())
    for folder, group in groupby(
        sorted(arrays, key=lambda file: (file.parent, file.name)), key=lambda file: file.parent
    ):
        files = list(group)
        to_hold = validation_tokens * sum(len(arrays[file]) for file in files) // total
        for file in reversed(files):
            tokens = arrays[file]
            cut = _cut(tokens, to_hold, eos_id)
            to_hold = max(to_hold - len(tokens), 0) if cut == 0 else 0
            for split, start, end in (("train", 0, cut), ("validation", cut, len(tokens))):
                if start < end:
                    yield Shard(
                        file=file.relative_to(directory).as_posix(),
                        split=split,
                        source=source_name(folder.resolve().name),
                        start=start,
                        tokens=end - start,
                        sha256=hashlib.sha256(tokens[start:end].data).hexdigest(),
                    )


def _cut(tokens: NDArray[Any], to_hold: int, eos_id: int) -> int:
    """Return where validation begins: after the first document that ends in the last `to_hold` tokens."""
    start = len(tokens) - to_hold
    if start <= 0 or to_hold == 0:
        return max(start, 0)
    ends = np.flatnonzero(tokens[start - 1 :] == eos_id)
    return start + int(ends[0]) if len(ends) else len(tokens)


def _check_splits(directory: Path, shards: list[Shard], validation_tokens: int) -> None:
    found = {split: sum(shard.tokens for shard in shards if shard.split == split) for split in SPLITS}
    if 0 in found.values():
        raise DataError(
            f"{directory}: expected documents for training and for validation, found {found['train']} and "
            f"{found['validation']} tokens of them. Change validation_tokens={validation_tokens}."
        )
