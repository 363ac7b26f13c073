"""A sample of tokens, read when shards are opened: whether they fit the vocabulary and the end-of-text id."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grow.common.errors import DataError
from grow.data.manifest import Shard

READS, READ_TOKENS = 64, 4096
_IMPROBABLE = 1e-6
_OTHER_EOS = "OLMo's tokenizers differ in it (0 and 50279)"


def check_sample(
    shards: Sequence[Shard],
    read: Callable[[Shard, int, int], NDArray[Any]],
    *,
    files: Path,
    vocab_size: int,
    eos_id: int,
) -> str | None:
    """Read 64 evenly placed pieces of 4,096 tokens, and compare them with what the manifest says.

    Args:
        shards: All shards.
        read: Returns tokens of a shard, from one to before another.
        files: Directory that the shards' paths are relative to, for the messages.
        vocab_size: Every id is below this.
        eos_id: Id that ends a document.

    Returns:
        A warning where no document ends in the sample, though that may be so; None else.

    Raises:
        DataError: an id is too large, or there are so many documents that one must have ended in the sample.
    """
    sampled, ended = 0, False
    for shard, start, stop in _places(shards):
        tokens = read(shard, start, stop)
        if (highest := int(tokens.max())) >= vocab_size:
            raise DataError(
                f"{files / shard.file}: expected token ids below vocab_size={vocab_size}, found {highest} among the "
                f"tokens {shard.start + start} to {shard.start + stop}. The file or the manifest was changed, or the "
                "dtype is wrong: copy the shards again, or prepare them again."
            )
        sampled += len(tokens)
        ended = ended or bool((tokens == eos_id).any())
    if ended or not sampled:
        return None
    sampled = min(sampled, sum(shard.tokens for shard in shards))  # pieces of few tokens overlap
    found = f"{files}: found no end of a document, eos_id={eos_id}, among {sampled} tokens that were sampled"
    if _chance_of_none(shards, sampled) < _IMPROBABLE:
        documents = sum(shard.documents or 0 for shard in shards)
        raise DataError(
            f"{found}, but the manifest counts {documents} documents. Is it that of the tokenizer that made them? "
            f"{_OTHER_EOS}. Prepare or adopt the data again."
        )
    return f"Warning: {found}. Is it that of the tokenizer that made the shards? {_OTHER_EOS}."


def _places(shards: Sequence[Shard]) -> Iterator[tuple[Shard, int, int]]:
    """Yield where to read: a shard, and the first token and the end of a piece of it."""
    ends = np.cumsum([shard.tokens for shard in shards], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    for number in range(min(READS, total)):
        token = (2 * number + 1) * total // (2 * READS)
        shard = shards[index := int(ends.searchsorted(token, side="right"))]
        start = max(0, min(token - int(ends[index]) + shard.tokens, shard.tokens - READ_TOKENS))
        yield shard, start, min(start + READ_TOKENS, shard.tokens)


def _chance_of_none(shards: Sequence[Shard], sampled: int) -> float:
    """Return the probability that no document ends in a sample, if ends are evenly spread; 1 where unknown."""
    if any(shard.documents is None for shard in shards):
        return 1.0
    total = sum(shard.tokens for shard in shards)
    documents = sum(shard.documents or 0 for shard in shards)
    return math.exp(-documents * sampled / total)
