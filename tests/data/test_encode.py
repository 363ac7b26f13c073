"""Long documents are tokenized in pieces of bounded size, to the tokens that they have as a whole, and one eos."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from grow.data.tokenizer import load_tokenizer
from grow.preparation import encode as encode_module
from grow.preparation import shard_task
from grow.preparation.encode import cut, encode
from grow.preparation.held_out import is_held_out
from grow.preparation.texts import Document, Reader, TextFile


@pytest.fixture
def tokenizer(prepared):
    return load_tokenizer(str(prepared.tokenizer_dir))


def ids_by_document(documents, tokenizer):
    found = []
    for piece, ids in encode(documents, tokenizer):
        if piece.is_first:
            found.append([])
        found[-1] += ids.tolist()
    return found


def whole(text, tokenizer):
    return [*tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids, tokenizer.eos_token_id]


@pytest.mark.parametrize("separator", [" ", "\n", "\n\n", "  ", ", ", " 17 "])
def test_a_document_in_pieces_has_the_tokens_of_the_whole_and_one_eos(tokenizer, sentences, monkeypatch, separator):
    monkeypatch.setattr(encode_module, "PIECE_CHARACTERS", 90)
    texts = [separator.join(sentences(20, seed=seed)) for seed in range(3)] + ["short", "x" * 90]
    pieces = [piece for piece, _ in encode([Document(text, "made") for text in texts], tokenizer)]
    assert len(pieces) > 30 and max(len(piece.text) for piece in pieces) <= 90
    found = ids_by_document([Document(text, "made") for text in texts], tokenizer)
    assert found == [whole(text, tokenizer) for text in texts]


def test_text_without_spaces_is_cut_and_unchanged(tokenizer, monkeypatch):
    monkeypatch.setattr(encode_module, "PIECE_CHARACTERS", 64)
    text = "abcdefghij" * 50
    (found,) = ids_by_document([Document(text, "made")], tokenizer)
    assert tokenizer.decode(found[:-1]) == text
    assert list(map(len, cut(text, 64))) == [64] * 7 + [52]


def test_a_tokenizer_that_does_not_cut_words_gets_whole_documents(monkeypatch):
    monkeypatch.setattr(encode_module, "PIECE_CHARACTERS", 8)
    backend = Tokenizer(models.BPE(vocab={"</s>": 0, "_": 1, "a": 2, " ": 3}, merges=[]))
    backend.normalizer = normalizers.Prepend("_")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    (piece,) = [piece for piece, _ in encode([Document("a a a a a a a", "made")], tokenizer)]
    assert piece.text == "a a a a a a a"


def test_a_batch_is_bounded_in_characters_and_in_pieces(tokenizer, monkeypatch):
    monkeypatch.setattr(encode_module, "BATCH_CHARACTERS", 100)
    monkeypatch.setattr(encode_module, "PIECES_PER_BATCH", 4)
    pieces = encode_module._pieces([Document("x" * size, "made") for size in (60, 60, 1, 1, 1, 1, 1)], by_words=True)
    assert [len(batch) for batch in encode_module._batches(pieces)] == [2, 4, 1]


def test_a_file_without_a_blank_line_is_read_in_bounded_passages(tmp_path, monkeypatch):
    monkeypatch.setattr("grow.preparation.texts.LONGEST_PASSAGE", 1000)
    text = "word " * 5000 + "\n" + "line\n" * 1000
    (tmp_path / "a.txt").write_text(text)
    found = [document.text for document in Reader().documents([TextFile(str(tmp_path / "a.txt"), "made")])]
    assert max(map(len, found)) <= 1000
    assert "".join(found).replace("\n", "") == text.replace("\n", "")


def test_more_sources_than_a_process_may_open_files_are_written(
    tmp_path, sentences, monkeypatch, prepared, prepare_texts
):
    monkeypatch.setattr(shard_task, "OPEN_FILES", 2)
    rows = [{"text": text, "source": f"source-{number % 9}"} for number, text in enumerate(sentences(180, seed=3))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shards = prepare_texts(
        tmp_path / "out", tmp_path / "a.jsonl", tokenizer=str(prepared.tokenizer_dir), vocab_size=None, shard_tokens=300
    )
    shards.verify()
    tokenizer = load_tokenizer(str(prepared.tokenizer_dir))
    for source in shards.sources:
        own = [row["text"] for row in rows if row["source"] == source and not is_held_out(row["text"])]
        tokens = [shards.read(shard) for shard in shards.of_split("train") if shard.source == source]
        assert np.concatenate(tokens).tolist() == [token for text in own for token in whole(text, tokenizer)]
