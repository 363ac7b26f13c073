"""Which evaluation items a training corpus contains: words in a row that both have.

A text is lower-cased and cut into words (letters and digits; the rest only separates). An item overlaps where `ngram`
words in a row of any of its texts occur anywhere in a document. Items without a text that long cannot be told and are
counted apart.

Source: GPT-3's rule, 13 words (arXiv 2005.14165, appendix C), without its filter for frequent n-grams.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grow.data.shards import TokenShards
from grow.data.tokenizer import load_tokenizer
from grow.evaluation.data import EvaluationData

_WORD = re.compile(r"[^\W_]+")
_DOCUMENTS_AT_A_TIME = 256


@dataclass(kw_only=True, slots=True)
class Overlap:
    """What was found of one task."""

    items: int
    too_short: int
    """Items that have no text of as many words."""
    found: dict[int, str] = field(default_factory=dict)
    """Number of an item in its file -> the first words in a row that the corpus has too."""


def find_overlaps(data: EvaluationData, documents: Iterable[str], ngram: int) -> dict[str, Overlap]:
    """Search documents for the items of every task.

    Args:
        data: the items; the split that is scored.
        documents: the corpus.
        ngram: words in a row.
    """
    owners: dict[str, list[tuple[str, int]]] = {}
    overlaps = {}
    for task in data.tasks:
        items = list(data.items(task, _scored_split(data, task)))
        short = 0
        for number, item in enumerate(items):
            grams = {gram for text in _texts(item) for gram in ngrams(text, ngram)}
            short += not grams
            for gram in grams:
                owners.setdefault(gram, []).append((task, number))
        overlaps[task] = Overlap(items=len(items), too_short=short)
    for document in documents:
        for gram in ngrams(document, ngram):
            for task, number in owners.get(gram, ()):
                overlaps[task].found.setdefault(number, gram)
    return overlaps


def ngrams(text: str, size: int) -> Iterator[str]:
    """Every `size` words in a row of a text, joined by spaces."""
    words = _WORD.findall(text.lower())
    return (" ".join(words[start : start + size]) for start in range(len(words) - size + 1))


def training_documents(shards: TokenShards) -> Iterator[str]:
    """The text of every training document, cut at the end-of-text id."""
    tokenizer = load_tokenizer(str(shards.tokenizer_dir))
    for shard in shards.shards:
        if shard.split == "train":
            ids = shards.read(shard)
            pieces = np.split(ids, np.flatnonzero(ids == shards.eos_id) + 1)
            for start in range(0, len(pieces), _DOCUMENTS_AT_A_TIME):
                batch = [piece.tolist() for piece in pieces[start : start + _DOCUMENTS_AT_A_TIME]]
                yield from tokenizer.batch_decode(batch, skip_special_tokens=True)


def _scored_split(data: EvaluationData, task: str) -> str:
    splits = data.tasks[task]["splits"]
    return "test" if "test" in splits else "validation"


def _texts(value: Any) -> Iterator[str]:
    """Every string in an item; a blank (winogrande's underscore) ends one text and begins another."""
    if isinstance(value, str):
        yield from value.split("_")
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
