"""Contamination: the evaluation items that a training corpus contains, by the n-grams of words they share.

A text is lower-cased and cut into words (runs of letters and digits). An item overlaps with the corpus where an n-gram
of one of its texts occurs in a document. Items whose texts are all shorter than n words cannot be checked and are
counted separately.

Source: GPT-3's rule with n = 13 (arXiv 2005.14165, appendix C), without its filter for frequent n-grams.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from grow.data.shards import TokenShards
from grow.data.tokenizer import load_tokenizer
from grow.evaluation.data import EvaluationData

_WORD = re.compile(r"[^\W_]+")
_DOCUMENTS_AT_A_TIME = 256


@dataclass(kw_only=True, slots=True)
class Overlap:
    """Overlap of one task's items with a corpus."""

    items: int
    """Items of the task."""
    too_short: int
    """Items without a text of n words, which cannot be checked."""
    found: dict[int, str] = field(default_factory=dict)
    """Number of an overlapping item in its file -> the n-gram that was found in the corpus first."""


def find_overlaps(data: EvaluationData, documents: Iterable[str], ngram: int) -> dict[str, Overlap]:
    """Search documents for the items of every task.

    Args:
        data: Evaluation items, of which the scored split of each task is searched for.
        documents: Texts of the corpus.
        ngram: Words of an n-gram.

    Returns:
        Task -> what was found of it.
    """
    owners: dict[str, list[tuple[str, int]]] = {}
    overlaps = {}
    for task in data.tasks:
        items = list(data.items(task, _scored_split(data, task)))
        too_short = 0
        for number, item in enumerate(items):
            grams = {gram for text in _texts(item) for gram in ngrams(text, ngram)}
            too_short += not grams
            for gram in grams:
                owners.setdefault(gram, []).append((task, number))
        overlaps[task] = Overlap(items=len(items), too_short=too_short)
    for document in documents:
        for gram in ngrams(document, ngram):
            for task, number in owners.get(gram, ()):
                overlaps[task].found.setdefault(number, gram)
    return overlaps


def ngrams(text: str, size: int) -> Iterator[str]:
    """Yield every n-gram of `size` words of a text, its words lower-cased and joined by spaces."""
    words = _WORD.findall(text.lower())
    return (" ".join(words[start : start + size]) for start in range(len(words) - size + 1))


def training_documents(shards: TokenShards) -> Iterator[str]:
    """Yield the text of every training document; documents end at the end-of-text id."""
    tokenizer = load_tokenizer(str(shards.tokenizer_dir))
    for shard in shards.shards:
        if shard.split == "train":
            shards.check(shard)
            documents = shards.documents(shard)
            while batch := [ids.tolist() for ids in islice(documents, _DOCUMENTS_AT_A_TIME)]:
                yield from tokenizer.batch_decode(batch, skip_special_tokens=True)


def _scored_split(data: EvaluationData, task: str) -> str:
    splits = data.tasks[task]["splits"]
    return "test" if "test" in splits else "validation"


def _texts(value: Any) -> Iterator[str]:
    """Yield every text of an item; a blank to fill in (winogrande's underscore) separates two texts."""
    if isinstance(value, str):
        yield from value.split("_")
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
