"""Preparing is deterministic, holds documents out whole, and leaves nothing half-written."""

import errno
import json
import shutil

import numpy as np
import pytest

from grow.common.errors import DataError
from grow.data.shards import TokenShards
from grow.data.tokenizer import load_tokenizer, train_tokenizer
from grow.preparation import shard_task, task_records
from grow.preparation.held_out import is_held_out


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def documents(shards: TokenShards, split: str) -> list[str]:
    tokenizer = load_tokenizer(str(shards.tokenizer_dir))
    found = []
    for shard in shards.shards:
        if shard.split == split:
            tokens = shards.read(shard)
            ends = np.flatnonzero(tokens == shards.eos_id)
            assert ends[-1] == len(tokens) - 1
            found += [tokenizer.decode(document[:-1]) for document in np.split(tokens, ends[:-1] + 1)]
    return found


def test_the_same_texts_give_the_same_bytes(prepared, corpus, tmp_path, prepare_texts):
    again = prepare_texts(tmp_path / "again", corpus / "first.jsonl", corpus / "second.jsonl")
    assert contents(again.path) == contents(prepared.path)


def test_every_document_is_in_the_split_its_hash_says_and_only_there(prepared, corpus):
    rows = [json.loads(line) for name in ("first", "second") for line in (corpus / f"{name}.jsonl").open()]
    texts = [row["text"] for row in rows]
    assert sorted(documents(prepared, "train")) == sorted(text for text in texts if not is_held_out(text))
    assert sorted(documents(prepared, "validation")) == sorted(text for text in texts if is_held_out(text))
    assert not {shard.file for shard in prepared.shards if shard.split == "train"} & {
        shard.file for shard in prepared.shards if shard.split == "validation"
    }


def test_about_five_percent_of_documents_are_held_out(sentences):
    assert 0.04 < np.mean([is_held_out(text) for text in sentences(5000, seed=3)]) < 0.06


def test_tokens_are_counted_by_source_and_split(prepared):
    for split in ("train", "validation"):
        assert prepared.tokens(split) == prepared.tokens(split, "first") + prepared.tokens(split, "web")
    assert prepared.tokens("train", "first") > prepared.tokens("train", "web") > 0


def test_shards_are_cut_above_a_size(prepared):
    sizes = [shard.tokens for shard in prepared.shards if (shard.split, shard.source) == ("train", "first")]
    assert len(sizes) > 2
    assert all(3000 <= size < 3500 for size in sizes[:-1])


def test_a_given_tokenizer_is_used_and_kept(prepared, corpus, tmp_path, prepare_texts):
    tokenizer = str(prepared.tokenizer_dir)
    again = prepare_texts(tmp_path / "again", corpus / "first.jsonl", tokenizer=tokenizer, vocab_size=None)
    assert again.tokenizer_sha256 == prepared.tokenizer_sha256
    assert again.tokens("train") == prepared.tokens("train", "first")


def test_the_tokenizer_never_sees_validation_text(sentences, write_jsonl, tmp_path, prepare_texts):
    texts = sentences(100, seed=4)
    both = prepare_texts(tmp_path / "both", write_jsonl(tmp_path / "a.jsonl", texts))
    expected = train_tokenizer([text for text in texts if not is_held_out(text)], 400)
    assert load_tokenizer(str(both.tokenizer_dir)).get_vocab() == expected.get_vocab()


def test_a_text_that_spells_the_end_of_text_does_not_end(sentences, write_jsonl, tmp_path, prepare_texts):
    texts = [f"{text} <|endoftext|> more" for text in sentences(60, seed=5)]
    shards = prepare_texts(tmp_path / "out", write_jsonl(tmp_path / "a.jsonl", texts))
    assert sum(int((shards.read(shard) == shards.eos_id).sum()) for shard in shards.shards) == 60


def test_a_large_vocabulary_is_stored_in_four_bytes(prepared, corpus, tmp_path, monkeypatch, prepare_texts):
    for module in (shard_task, task_records):
        monkeypatch.setattr(module, "smallest_dtype", lambda vocab_size: "uint32")
    wide = prepare_texts(tmp_path / "wide", corpus / "first.jsonl", corpus / "second.jsonl")
    assert wide.dtype == "uint32"
    every = np.arange(len(prepared.windows("train", 16)))
    assert np.array_equal(wide.windows("train", 16).take(every), prepared.windows("train", 16).take(every))


def test_ids_beyond_the_vocabulary_are_never_written(corpus, tmp_path, monkeypatch, prepare_texts):
    monkeypatch.setattr(shard_task, "vocabulary_size", lambda tokenizer: 300)
    with pytest.raises(DataError, match="expected ids below the vocabulary's size of 300"):
        prepare_texts(tmp_path / "out", corpus / "first.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("code", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "cannot be written")])
def test_a_failed_write_leaves_nothing(corpus, tmp_path, monkeypatch, prepare_texts, code, message):
    def fail(*args):
        raise OSError(code, "failed")

    monkeypatch.setattr(shard_task._Writer, "_finish", fail)
    with pytest.raises(DataError, match=message):
        prepare_texts(tmp_path / "out", corpus / "first.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_nothing_that_is_trusted(corpus, tmp_path, monkeypatch, prepare_texts):
    monkeypatch.setattr(task_records, "write_manifest", lambda *args, **kwargs: (_ for _ in ()).throw(SystemExit))
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
    with pytest.raises(SystemExit):
        prepare_texts(tmp_path / "out", corpus / "first.jsonl")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    prepare_texts(tmp_path / "out", corpus / "first.jsonl").verify()


def test_an_output_that_exists_is_left_alone(corpus, tmp_path, prepare_texts):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(DataError, match="Remove it or choose another output"):
        prepare_texts(tmp_path / "out", corpus / "first.jsonl")
    assert (tmp_path / "out" / "mine").read_text() == "precious"


def test_an_output_that_appears_meanwhile_is_left_alone(corpus, tmp_path, monkeypatch, prepare_texts):
    def appear(*args, **kwargs):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("first")

    monkeypatch.setattr(task_records, "write_manifest", appear)
    with pytest.raises(DataError, match="another process"):
        prepare_texts(tmp_path / "out", corpus / "first.jsonl")
    assert contents(tmp_path) == {(tmp_path / "out" / "theirs").relative_to(tmp_path): b"first"}


@pytest.mark.parametrize("count", [0, 1, 5])
def test_too_few_documents_to_hold_any_out_are_refused(sentences, write_jsonl, tmp_path, prepare_texts, count):
    texts = [text for text in sentences(20, seed=6) if not is_held_out(text)][:count]
    with pytest.raises(DataError, match=f"found {count} documents"):
        prepare_texts(tmp_path / "out", write_jsonl(tmp_path / "a.jsonl", texts))


def test_a_vocabulary_too_small_for_bytes_is_refused(corpus, tmp_path, prepare_texts):
    with pytest.raises(DataError, match="vocab_size=256: expected 257"):
        prepare_texts(tmp_path / "out", corpus / "first.jsonl", vocab_size=256)


def test_a_tokenizer_that_is_none_is_refused(corpus, tmp_path, prepare_texts):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected a tokenizer directory or hub id"):
        prepare_texts(tmp_path / "out", corpus / "first.jsonl", tokenizer=str(tmp_path / "empty"), vocab_size=None)
