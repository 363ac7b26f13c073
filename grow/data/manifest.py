"""The manifest of a directory of token shards: what it says, how it is checked, and how it is written.

Version 2 adds, to each shard, the number of its documents and how often an epoch reads it; and, to the whole, `root`
(where the files are, when that is another directory) and `prepared` (what the shards were made of). Version 1 is read
as ever.
"""

import hashlib
import json
import posixpath
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from grow.common.errors import DataError
from grow.common.provenance import write_json
from grow.common.records import parse_record

MANIFEST_FILE = "manifest.json"
TOKENIZER_DIR = "tokenizer"
FORMAT = "grow-token-shards"
VERSIONS = (1, 2)
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
SPLITS = ("train", "validation")
_ADVICE = "Copy the directory again, or prepare the data again with scripts/prepare_data.py."


@dataclass(kw_only=True, slots=True, frozen=True)
class Shard:
    """Consecutive tokens of one file, of one split and one source."""

    file: str
    """Path relative to the directory of the files."""
    split: str
    source: str
    start: int
    """Index of the first token in the file."""
    tokens: int
    sha256: str
    """Digest of these tokens' bytes."""
    documents: int | None = None
    """Documents that end in these tokens; None where nobody counted them."""
    repeats: int = 1
    """Times that an epoch reads these tokens."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Manifest:
    """What the manifest of either version holds besides its format."""

    dtype: str
    vocab_size: int
    """Every token id is below this."""
    eos_id: int
    tokenizer_sha256: str
    shards: tuple[Shard, ...]
    root: str | None = None
    """Directory of the shard files, if relative then to the manifest's own; None for the manifest's own."""
    prepared: dict[str, Any] | None = None
    """What the shards were made of: inputs, options, counts."""


@dataclass(kw_only=True, slots=True)
class _Format:
    """What the manifests of every version say of themselves."""

    format: str
    version: int


def read_manifest(directory: Path) -> tuple[Manifest, str]:
    """Read and check the manifest of a directory of shards.

    Returns:
        The manifest, and the SHA-256 that stands for the data: equal digests mean equal data. In version 1 it is that
        of the file; in version 2 that of the shards, wherever they lie and whatever they were made of.

    Raises:
        DataError: there is none, it is damaged, or what it says cannot be.
    """
    path, raw = directory / MANIFEST_FILE, _content(directory)
    expected = f"{path}: expected a manifest of format {FORMAT!r} version {' or '.join(map(str, VERSIONS))}"
    read = partial(parse_record, raw, where=expected, error=DataError, advice=_ADVICE)
    found = read(_Format)
    if found.format != FORMAT or found.version not in VERSIONS:
        raise DataError(f"{expected}, found format {found.format!r} version {found.version}. {_ADVICE}")
    manifest = read(Manifest)
    _check(manifest, expected)
    return manifest, hashlib.sha256(raw).hexdigest() if found.version == 1 else _data_digest(manifest)


def write_manifest(
    directory: Path,
    *,
    dtype: str,
    vocab_size: int,
    eos_id: int,
    shards: Sequence[Shard],
    root: str | None = None,
    prepared: dict[str, Any] | None = None,
) -> None:
    """Write the manifest of a directory's shards and tokenizer; its bytes depend on the arguments alone.

    Args:
        directory: Directory with the tokenizer.
        dtype: Type of the tokens, one of DTYPES.
        vocab_size: Size of the vocabulary, above every id.
        eos_id: Token id that ends each document.
        shards: All shards, in the order in which they are read.
        root: Directory of the shard files; None for `directory`.
        prepared: Record of what the shards were made of.
    """
    totals = {split: sum(shard.tokens * shard.repeats for shard in shards if shard.split == split) for split in SPLITS}
    content = {
        "format": FORMAT,
        "version": VERSIONS[-1],
        "dtype": dtype,
        "vocab_size": vocab_size,
        "eos_id": eos_id,
        "tokenizer_sha256": tokenizer_digest(directory / TOKENIZER_DIR),
        "totals": totals,
        **({} if root is None else {"root": root}),
        **({} if prepared is None else {"prepared": prepared}),
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


def _content(directory: Path) -> bytes:
    try:
        return (directory / MANIFEST_FILE).read_bytes()
    except OSError as error:
        if next(directory.rglob("*.npy"), None) is not None:
            raise DataError(
                f"{directory}: expected {MANIFEST_FILE} next to the .npy shards, found none. If these are shards in "
                f"Dolma's format, describe them once with: python scripts/prepare_data.py adopt={directory} "
                "tokenizer=DIRECTORY dtype=uint16 validation_tokens=N"
            ) from None
        raise DataError(
            f"{directory}: expected a directory of token shards with a {MANIFEST_FILE}, found "
            f"{error.strerror or error}. Check data.path=DIRECTORY, or make shards: "
            f"python scripts/prepare_data.py input='[TEXTS]' output={directory} vocab_size=4096. Without data of your "
            "own, data=english trainer=default tries a model on the embedded corpus."
        ) from None


def _data_digest(manifest: Manifest) -> str:
    """Return the SHA-256 of what decides the tokens that are read, and of how they are read."""
    shards = [(s.file, s.split, s.source, s.start, s.tokens, s.sha256, s.repeats) for s in manifest.shards]
    whole = (manifest.dtype, manifest.vocab_size, manifest.eos_id, manifest.tokenizer_sha256, shards)
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def _check(manifest: Manifest, expected: str) -> None:
    """Refuse what cannot be true of any shards."""

    def refuse(found: str) -> NoReturn:
        raise DataError(f"{expected}, found {found}. {_ADVICE}")

    if manifest.dtype not in DTYPES:
        refuse(f"dtype {manifest.dtype!r}, which is none of {', '.join(DTYPES)}")
    if not 1 <= manifest.vocab_size <= 2 ** (8 * DTYPES[manifest.dtype].itemsize):
        refuse(f"vocab_size {manifest.vocab_size}, which {manifest.dtype} cannot hold")
    if not 0 <= manifest.eos_id < manifest.vocab_size:
        refuse(f"eos_id {manifest.eos_id}, which is not below vocab_size {manifest.vocab_size}")
    for shard in manifest.shards:
        if (fault := _fault(shard)) is not None:
            refuse(f"{fault} for shard {shard.file!r}")
    in_files = sorted(manifest.shards, key=lambda shard: (shard.file, shard.start, shard.tokens))
    for first, second in pairwise(in_files):
        if first.file == second.file and second.start < first.start + first.tokens:
            refuse(
                f"shard {first.file!r} with tokens {first.start} to {first.start + first.tokens} ({first.split}) and "
                f"{second.start} to {second.start + second.tokens} ({second.split}): the same tokens twice"
            )


def _fault(shard: Shard) -> str | None:
    """Return which field of a shard cannot be, and its value; None where all can."""
    inside = shard.file == posixpath.normpath(shard.file) and not shard.file.startswith(("/", "../"))
    fields: dict[str, tuple[bool, object]] = {
        "file": (inside and shard.file not in (".", "..") and "\0" not in shard.file, shard.file),
        "split": (shard.split in SPLITS, shard.split),
        "source": (bool(shard.source), shard.source),
        "start": (shard.start >= 0, shard.start),
        "tokens": (shard.tokens >= 0, shard.tokens),
        "documents": (shard.documents is None or shard.documents >= 0, shard.documents),
        "repeats": (shard.repeats >= 1, shard.repeats),
    }
    return next((f"{name} {value!r}" for name, (holds, value) in fields.items() if not holds), None)
