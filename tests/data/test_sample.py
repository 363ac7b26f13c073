"""Opening shards reads a sample of tokens: ids that cannot be, and an end of text that nobody finds."""

import json

import numpy as np
import pytest

from grow.common.errors import DataError
from grow.data.shards import TokenShards


def rewrite(directory, documents, **changes) -> None:
    """Change a manifest, and give every shard a number of documents."""
    path = directory / "manifest.json"
    plain = json.loads(path.read_text()) | changes
    plain["shards"] = [shard | {"documents": documents} for shard in plain["shards"]]
    path.write_text(json.dumps(plain))


def test_an_id_beyond_the_vocabulary_is_refused_with_its_file(copied):
    path = copied.path / copied.shards[2].file
    np.full(copied.shards[2].tokens, copied.vocab_size, "<u2").tofile(path)
    with pytest.raises(DataError, match=rf"{copied.shards[2].file}: .* below vocab_size=400, found 400"):
        TokenShards.open(copied.path)


@pytest.mark.parametrize("documents", [None, 0])
def test_no_end_of_text_is_a_warning_where_that_may_be(copied, documents):
    assert copied.warning is None
    rewrite(copied.path, documents, eos_id=400, vocab_size=401)
    assert "0 and 50279" in TokenShards.open(copied.path).warning


def test_no_end_of_text_among_many_documents_is_refused(copied):
    rewrite(copied.path, 50, eos_id=400, vocab_size=401)
    with pytest.raises(DataError, match=r"no end of a document, eos_id=400.*0 and 50279"):
        TokenShards.open(copied.path)


def test_another_tokenizer_is_refused(copied):
    (copied.tokenizer_dir / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="tokenizer: expected SHA-256"):
        TokenShards.open(copied.path)


def test_documents_are_told_apart_in_pieces_of_any_size(prepared, monkeypatch):
    shard = prepared.shards[0]
    whole = [document.tolist() for document in prepared.documents(shard)]
    assert [token for document in whole for token in document] == prepared.read(shard).tolist()
    assert all(document[-1] == prepared.eos_id and prepared.eos_id not in document[:-1] for document in whole)
    monkeypatch.setattr("grow.data.shards._PIECE_TOKENS", 7)
    assert [document.tolist() for document in prepared.documents(shard)] == whole
