"""What the sources of a corpus hold, from a sample: the first documents of evenly chosen training shards."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from grow.data.manifest import Shard
from grow.data.run_order import RunOrder
from grow.data.shards import TokenShards
from grow.data.windows import Windows

SAMPLED_SHARDS, SAMPLED_TOKENS = 64, 4_000_000
COMPARED_SEQUENCES = 4096
_DECODED_DOCUMENTS = 2000
_ODD = ("Cc", "Cn", "Co", "Cs")  # Unicode's control, unassigned, private and surrogate characters


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceStatistics:
    """One source; shares are of its sample, and None where it has none."""

    source: str
    train_tokens: int
    validation_tokens: int
    documents: int | None
    """Documents by the manifest; None where it does not count them."""
    lengths: NDArray[np.int64]
    """Tokens of each sampled document, its end included."""
    one_token: float | None
    """Share of documents with one token besides their end."""
    odd_characters: float | None
    """Share of characters that no text should hold: control and private ones, and those that stand for broken bytes."""


def source_statistics(shards: TokenShards, tokenizer: PreTrainedTokenizerFast) -> list[SourceStatistics]:
    """Return what each source holds.

    Args:
        shards: Opened shards.
        tokenizer: Tokenizer of the shards.
    """
    return [_statistics(shards, source, tokenizer) for source in shards.sources]


def repeated_share(windows: Windows, order: RunOrder) -> float:
    """Return the share of a run's first 4,096 sequences that another one of them repeats, within an epoch."""
    indices = np.unique(order.windows_at(np.arange(min(COMPARED_SEQUENCES, len(windows)))))
    texts = [row.tobytes() for row in windows.take(indices)]
    return 1 - len(set(texts)) / len(texts)


def _statistics(shards: TokenShards, source: str, tokenizer: PreTrainedTokenizerFast) -> SourceStatistics:
    own = [shard for shard in shards.shards if shard.source == source]
    documents = list(_sampled(shards, [shard for shard in own if shard.split == "train"]))
    lengths = np.array([len(document) for document in documents], np.int64)
    decoded = documents[:: max(len(documents) // _DECODED_DOCUMENTS, 1)]
    text = "".join(tokenizer.batch_decode([ids.tolist() for ids in decoded], skip_special_tokens=True))
    odd = sum(character == "\ufffd" or unicodedata.category(character) in _ODD for character in text)
    white = sum(text.count(character) for character in "\t\n\r")
    return SourceStatistics(
        source=source,
        train_tokens=shards.tokens("train", source),
        validation_tokens=shards.tokens("validation", source),
        documents=_documents(own),
        lengths=lengths,
        one_token=float((lengths <= 2).mean()) if len(lengths) else None,
        odd_characters=(odd - white) / len(text) if text else None,
    )


def _documents(shards: list[Shard]) -> int | None:
    counts = [shard.documents for shard in shards]
    return None if None in counts else sum(count or 0 for count in counts)


def _sampled(shards: TokenShards, own: list[Shard]) -> Iterator[NDArray[np.int64]]:
    """Yield whole documents from the beginnings of evenly chosen shards."""
    chosen = (
        [own[number] for number in np.unique(np.linspace(0, len(own) - 1, SAMPLED_SHARDS).astype(int))] if own else []
    )
    for shard in chosen:
        stop = min(shard.tokens, SAMPLED_TOKENS // len(chosen))
        tokens = shards.read(shard, 0, stop)
        *whole, rest = np.split(tokens, np.flatnonzero(tokens == shards.eos_id) + 1)
        yield from whole
        if len(rest) and (not whole or stop == shard.tokens):
            yield rest  # one that is longer than the sample counts with the tokens that were read
