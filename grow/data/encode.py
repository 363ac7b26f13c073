"""Turns documents into token ids, in pieces and batches of bounded size, whatever the size of a document."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from grow.data.texts import Document

PIECE_CHARACTERS = 2**18
BATCH_CHARACTERS = 2**22
PIECES_PER_BATCH = 512
_SEARCHED_CHARACTERS = 1024  # before the end of a piece, for a place between two words
_BETWEEN_WORDS = re.compile(r"(?<=\w)(?= \w)|(?<=\n)(?=\w)")


class Piece(NamedTuple):
    """Text that is tokenized at once: a document, or a part of a long one."""

    document: Document
    text: str
    is_first: bool
    is_last: bool


def encode(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerFast
) -> Iterator[tuple[Piece, NDArray[np.int64]]]:
    """Yield the pieces of all documents, in order, with their token ids; the last of a document ends in an eos.

    The ids of a long document are those that it has as a whole. Where a tokenizer does not cut text into words, a
    document is one piece, however long it is.
    """
    backend, eos_id = tokenizer.backend_tokenizer, int(tokenizer.eos_token_id)
    backend.encode_special_tokens = True  # <|endoftext|> spelled out in a text is tokenized as text
    longest = PIECE_CHARACTERS if _cuts_words(tokenizer) else None
    for batch in _batches(_pieces(documents, longest)):
        encodings = backend.encode_batch_fast([piece.text for piece in batch], add_special_tokens=False)
        for piece, encoding in zip(batch, encodings, strict=True):
            yield piece, np.array([*encoding.ids, *[eos_id] * piece.is_last], np.int64)


def cut(text: str, longest: int | None) -> Iterator[str]:
    """Cut a text into pieces of at most `longest` characters, between words where there are any.

    Words in the sense of byte-level tokenizers: a space belongs to the word after it, and a line's end to none.
    """
    start = 0
    while longest is not None and len(text) - start > longest:
        end = start + longest
        places = [place.start() for place in _BETWEEN_WORDS.finditer(text, end - _SEARCHED_CHARACTERS, end)]
        end = max([place for place in places if place > start], default=end)
        yield text[start:end]
        start = end
    yield text[start:]


def _cuts_words(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether text that is cut between words has the same tokens as the whole."""

    def ids(text: str) -> list[int]:
        return list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    parts = ["One two three", " four 5", " 6 seven.\n", "Eight"]
    return ids("".join(parts)) == [token for part in parts for token in ids(part)]


def _pieces(documents: Iterable[Document], longest: int | None) -> Iterator[Piece]:
    for document in documents:
        done = 0
        for text in cut(document.text, longest):
            first, done = done == 0, done + len(text)
            yield Piece(document, text, is_first=first, is_last=done == len(document.text))


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        characters += len(piece.text)
        if len(batch) == PIECES_PER_BATCH or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
