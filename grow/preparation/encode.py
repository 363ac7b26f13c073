"""Turns documents into token ids, in pieces and batches of bounded size, whatever the size of a document."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from grow.preparation.texts import Document

PIECE_CHARACTERS = 2**18
BATCH_CHARACTERS = 2_000_000
PIECES_PER_BATCH = 512
LONG_DOCUMENT = 4_000_000
"""Characters above which every document is cut, and counted."""
_SEARCHED_CHARACTERS = 1024  # before the end of a piece, for a place between two words
_BETWEEN_WORDS = (re.compile(r"(?<=\w)(?= \w)|(?<=\n)(?=\w)"),)
_AT_LINES = (re.compile(r"(?<=\n)(?=\S)"), re.compile(r"(?<= )(?=\S)"))  # the second where there are none of the first
_LEAD = "\n"  # put before a later piece, so that a tokenizer that begins every text with a space does not do it there


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

    The ids of a long document are those that it has as a whole. A tokenizer that does not cut text into words gets
    documents of up to LONG_DOCUMENT as one piece; longer ones are cut at the ends of lines.
    """
    backend, eos_id = tokenizer.backend_tokenizer, int(tokenizer.eos_token_id)
    backend.encode_special_tokens = True  # <|endoftext|> spelled out in a text is tokenized as text
    by_words = _cuts_words(tokenizer)
    lead = [] if by_words else list(backend.encode(_LEAD, add_special_tokens=False).ids)
    for batch in _batches(_pieces(documents, by_words=by_words)):
        texts = [piece.text if by_words or piece.is_first else _LEAD + piece.text for piece in batch]
        encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
        for piece, encoding in zip(batch, encodings, strict=True):
            ids = encoding.ids
            if not by_words and not piece.is_first:
                is_led = ids[: len(lead)] == lead
                ids = ids[len(lead) :] if is_led else backend.encode(piece.text, add_special_tokens=False).ids
            yield piece, np.array([*ids, *[eos_id] * piece.is_last], np.int64)


def cut(text: str, longest: int, places: Sequence[re.Pattern[str]] = _BETWEEN_WORDS) -> Iterator[str]:
    """Cut a text into pieces of at most `longest` characters, between words where there are any.

    Words in the sense of byte-level tokenizers: a space belongs to the word after it, and a line's end to none.

    Args:
        text: Text to cut.
        longest: Most characters of a piece.
        places: Where to cut; a later pattern counts where the earlier ones match nowhere near a piece's end.
    """
    start = 0
    while len(text) - start > longest:
        end = start + longest
        first = max(end - _SEARCHED_CHARACTERS, start + 1)
        found = ([place.start() for place in pattern.finditer(text, first, end)] for pattern in places)
        end = max(next(filter(None, found), [end]))
        yield text[start:end]
        start = end
    yield text[start:]


def _cuts_words(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether text that is cut between words has the same tokens as the whole."""

    def ids(text: str) -> list[int]:
        return list(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    parts = ["One two three", " four 5", " 6 seven.\n", "Eight"]
    return ids("".join(parts)) == [token for part in parts for token in ids(part)]


def _pieces(documents: Iterable[Document], *, by_words: bool) -> Iterator[Piece]:
    for document in documents:
        done, text = 0, document.text
        if by_words:
            parts = cut(text, PIECE_CHARACTERS)
        else:
            parts = iter([text]) if len(text) <= LONG_DOCUMENT else cut(text, PIECE_CHARACTERS, _AT_LINES)
        for part in parts:
            first, done = done == 0, done + len(part)
            yield Piece(document, part, is_first=first, is_last=done == len(text))


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
