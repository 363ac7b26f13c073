"""The tokenizer of a data set: an existing one, or a byte-level BPE trained on its texts."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from grow.common.contained import contained_file
from grow.common.errors import DataError
from grow.common.hub import TOKENIZER_FILES, local_or_hub
from grow.common.provenance import digest_json
from grow.data.tokenizer_config import make_portable

END_OF_TEXT = "<|endoftext|>"
_SUFFIXES = (".json", ".jinja", ".model", ".txt")  # of all files that a tokenizer is loaded from
_TEMPLATES = "additional_chat_templates"
SMALLEST_VOCABULARY = 257  # every byte and the end of text


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a tokenizer like GPT-2's: byte-level BPE, `<|endoftext|>` as id 0. Equal texts give equal tokenizers.

    Raises:
        DataError: `vocab_size` is too small for all bytes.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise DataError(f"vocab_size={vocab_size}: expected {SMALLEST_VOCABULARY} or more (every byte, end of text).")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Load a tokenizer from a directory or from the hub.

    Raises:
        DataError: it cannot be loaded, has no tokenizer.json, or has no end-of-text token.
    """
    try:
        if Path(name).is_dir():
            _refuse_links_elsewhere(Path(name))
        directory = local_or_hub(name, TOKENIZER_FILES)
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exception for a damaged file
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise DataError(f"tokenizer={name}: expected a tokenizer directory or hub id, found: {reason}") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise DataError(f"tokenizer={name}: expected one with a tokenizer.json, found {type(tokenizer).__name__}.")
    if tokenizer.eos_token_id is None:
        raise DataError(f"tokenizer={name}: expected an eos_token, found none. Set it in its tokenizer_config.json.")
    return tokenizer


def _refuse_links_elsewhere(directory: Path) -> None:
    """Refuse a directory in which a file that a tokenizer consists of is a link to a place outside of it."""
    for file in [*directory.iterdir(), *directory.glob(f"{_TEMPLATES}/*")]:
        if file.suffix in _SUFFIXES or file.name == _TEMPLATES:
            contained_file(directory, str(file.relative_to(directory)))


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the highest id plus one."""
    return max(tokenizer.get_vocab().values()) + 1


def bytes_per_token(tokenizer: PreTrainedTokenizerFast) -> NDArray[np.int64]:
    """Return the number of bytes of text of each id: (ids,); special tokens, such as the end of text, have 0.

    Exact for byte-level tokenizers, where each character of a token is one byte. For others the bytes of the token's
    text are counted, with a word mark as a space and <0x..> as one byte.
    """
    is_byte_level = '"ByteLevel"' in tokenizer.backend_tokenizer.to_str()
    special = set(tokenizer.all_special_ids)
    lengths = np.zeros(vocabulary_size(tokenizer), np.int64)
    for token, index in tokenizer.get_vocab().items():
        if index not in special:
            lengths[index] = len(token) if is_byte_level else _text_bytes(token)
    return lengths


def _text_bytes(token: str) -> int:
    is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return 1 if is_byte else len(token.replace("▁", " ").encode())


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write a tokenizer to a directory, for AutoTokenizer."""
    tokenizer.save_pretrained(str(directory))
    make_portable(directory)


def vocabulary_digest(directory: Path) -> str | None:
    """Return a digest of the vocabulary alone, independent of the rest of tokenizer.json; None without that file.

    Raises:
        DataError: the file is damaged.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        added = [[token["id"], token["content"]] for token in content.get("added_tokens", [])]
        return digest_json([content["model"]["vocab"], added])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected a tokenizer of the tokenizers library, found {error!r}.") from None
