"""Which documents are held out for validation, and an estimate of how many tokens those are."""

import hashlib
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from grow.common.printed import say
from grow.preparation.encode import encode
from grow.preparation.texts import Document, Reader, TextFile

MANY_TOKENS, ENOUGH_TOKENS = 100_000_000, 20_000_000
_HASH_PARTS = 2**64 // 100 + 1  # values of a hash that share a whole percent
_SAMPLED_FILES = 3
_SAMPLED_BYTES = 2**20  # of each, as it is on the disk
_SAMPLED_CHARACTERS = 100_000  # of each, that are tokenized
_READ_CHARACTERS = 16_000_000  # at most of each


def is_held_out(text: str, percent: float = 5.0) -> bool:
    """Return whether a document is held out for validation: a share by hash, so equal texts are in one split.

    A larger share holds out all that a smaller one does.
    """
    rest, whole = divmod(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"), 100)
    return whole < int(percent) or (whole == int(percent) and rest / _HASH_PARTS < percent - int(percent))


def say_held_out(reader: Reader, files: Sequence[TextFile], tokenizer: PreTrainedTokenizerFast, percent: float) -> None:
    """Print about how many tokens will be held out, and which share would do where that is many."""
    chosen = [files[len(files) * index // _SAMPLED_FILES] for index in range(_SAMPLED_FILES)]
    samples = [_sample(reader, file, tokenizer) for file in dict.fromkeys(chosen)]
    size = sum(file.size for file in files)
    read = sum(size for _, size in samples)
    if not size or not read:
        return
    held = sum(tokens for tokens, _ in samples) / read * size * percent / 100
    line = f"validation_percent={percent:g} will hold out about {held:,.0f} tokens."
    if held > MANY_TOKENS:
        line += f" validation_percent={percent * ENOUGH_TOKENS / held:.2g} would hold out about {ENOUGH_TOKENS:,}."
    say(line)


def _sample(reader: Reader, file: TextFile, tokenizer: PreTrainedTokenizerFast) -> tuple[float, int]:
    """Return about how many tokens the first bytes of an input hold, and how many bytes these are."""
    read = characters = 0
    texts: list[Document] = []
    enough = 0

    def count(size: int) -> None:
        nonlocal read
        read += size

    reader.on_bytes = count
    for document in reader.documents([file]):
        if read > _SAMPLED_BYTES or characters > _READ_CHARACTERS:
            break
        if enough < _SAMPLED_CHARACTERS:
            texts.append(Document(document.text[:_SAMPLED_CHARACTERS], ""))
            enough += len(texts[-1].text)
        characters += len(document.text)
    tokens = sum(len(ids) for _, ids in encode(texts, tokenizer))
    whole = min(read, _SAMPLED_BYTES) if characters <= _READ_CHARACTERS and read else characters
    return (tokens * characters / enough if enough else 0.0), whole
