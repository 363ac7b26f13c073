"""Shards are read as they were written, and anything else is refused by name."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from grow.common.errors import DataError
from grow.data.manifest import Shard
from grow.data.shard_files import ShardFiles
from grow.data.shards import TokenShards
from grow.data.windows import Windows


def change_manifest(directory: Path, **changes) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def made_windows(directory: Path, *arrays: np.ndarray, sequence_length: int = 5) -> Windows:
    """Windows of files with these tokens."""
    shards = []
    for number, array in enumerate(arrays):
        array.astype("<u2").tofile(directory / f"{number}.npy")
        shards.append(Shard(file=f"{number}.npy", split="train", source="made", start=0, tokens=len(array), sha256=""))
    return Windows(shards, files=ShardFiles(), root=directory, dtype=np.dtype("<u2"), sequence_length=sequence_length)


def test_files_are_raw_little_endian_memory_maps(prepared):
    shard = prepared.shards[0]
    plain = np.memmap(prepared.path / shard.file, dtype="<u2", mode="r")
    assert len(plain) == shard.tokens
    assert plain[-1] == prepared.eos_id
    assert np.array_equal(prepared.read(shard), plain)


def test_tokenizer_of_the_shards_reads_them_back(prepared, corpus):
    tokenizer = AutoTokenizer.from_pretrained(prepared.tokenizer_dir)
    tokens = prepared.read(next(shard for shard in prepared.shards if shard.split == "train"))
    first = tokens[: int(np.flatnonzero(tokens == prepared.eos_id)[0])]
    texts = [json.loads(line)["text"] for line in (corpus / "first.jsonl").read_text().splitlines()]
    assert tokenizer.decode(first) in texts


def test_windows_follow_each_other_and_share_one_token(tmp_path):
    windows = made_windows(tmp_path, np.arange(20), np.arange(100, 111))
    assert len(windows) == 3 + 2
    taken = windows.take(np.array([4, 0, 2]))
    assert taken.dtype == np.int64
    assert taken.tolist() == [[105, 106, 107, 108, 109, 110], [0, 1, 2, 3, 4, 5], [10, 11, 12, 13, 14, 15]]


def test_windows_beyond_the_last_are_refused(tmp_path):
    windows = made_windows(tmp_path, np.arange(20))
    with pytest.raises(IndexError):
        windows.take(np.array([3]))


def test_a_file_shorter_than_a_window_gives_none(tmp_path):
    assert len(made_windows(tmp_path, np.arange(5))) == 0
    assert len(made_windows(tmp_path, np.arange(6))) == 1


def test_windows_of_shards_cover_every_file(prepared):
    windows = prepared.windows("train", 16)
    expected = [shard for shard in prepared.shards if shard.split == "train"]
    assert len(expected) > 2
    assert len(windows) == sum((shard.tokens - 1) // 16 for shard in expected)
    everything = np.concatenate([prepared.read(shard)[: (shard.tokens - 1) // 16 * 16] for shard in expected])
    assert np.array_equal(windows.take(np.arange(len(windows)))[:, :16].ravel(), everything)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="this system does not count the bytes of a process")
def test_cold_windows_are_read_and_not_what_lies_around_them(tmp_path):
    windows = made_windows(tmp_path, np.arange(2**24) % 2**16, sequence_length=2048)
    with (tmp_path / "0.npy").open("rb") as file:
        os.fsync(file)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = read_bytes()
    windows.take(np.random.default_rng(0).permutation(len(windows))[:64])
    assert (read_bytes() - before) / 64 <= 64 * 2**10


def read_bytes() -> int:
    """Bytes that this process has made the system fetch from disk."""
    return int(Path("/proc/self/io").read_text().split("\nread_bytes: ")[1].split()[0])


def test_untouched_shards_verify_and_keep_their_digest(prepared, copied):
    copied.verify()
    assert copied.digest == prepared.digest
    assert prepared.sources == ("first", "web")


def test_a_missing_shard_is_named(copied):
    shard = copied.shards[0]
    (copied.path / shard.file).unlink()
    with pytest.raises(DataError, match=rf"{shard.file}.*no such file"):
        TokenShards.open(copied.path)


@pytest.mark.parametrize("change", [b"", b"\0\0"], ids=["truncated", "longer"])
def test_a_shard_of_another_size_is_named(copied, change):
    path = copied.path / copied.shards[-1].file
    path.write_bytes(path.read_bytes() + change if change else path.read_bytes()[:-2])
    with pytest.raises(DataError, match=copied.shards[-1].file):
        TokenShards.open(copied.path)


def test_a_changed_token_is_found_by_verify(copied):
    path = copied.path / copied.shards[0].file
    raw = bytearray(path.read_bytes())
    raw[10] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=copied.shards[0].file):
        TokenShards.open(copied.path).verify()


def test_a_changed_tokenizer_is_found_by_verify(copied):
    path = copied.tokenizer_dir / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(DataError, match="tokenizer"):
        TokenShards.open(copied.path).verify()


@pytest.mark.parametrize(
    "changes", [{"version": 3}, {"format": "other"}, {"dtype": "int64"}, {"shards": [{}]}, {"shards": None}]
)
def test_a_manifest_of_another_format_is_refused(copied, changes):
    change_manifest(copied.path, **changes)
    with pytest.raises(DataError, match=r"manifest\.json: expected a manifest of format"):
        TokenShards.open(copied.path)


def test_a_dtype_that_does_not_fit_the_files_is_refused(copied):
    change_manifest(copied.path, dtype="uint32")
    with pytest.raises(DataError, match="expected a shard of"):
        TokenShards.open(copied.path)


def test_a_damaged_manifest_is_refused(copied):
    path = copied.path / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"manifest\.json"):
        TokenShards.open(copied.path)


def test_a_missing_directory_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match=r"prepare_data\.py input="):
        TokenShards.open(tmp_path / "nothing")


def test_shards_without_a_manifest_say_how_to_adopt_them(copied):
    (copied.path / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"prepare_data\.py adopt="):
        TokenShards.open(copied.path)


def test_a_model_with_too_small_a_vocabulary_is_refused(prepared):
    prepared.check_vocabulary(prepared.vocab_size)
    with pytest.raises(DataError, match=f"model.vocab_size={prepared.vocab_size}"):
        prepared.check_vocabulary(prepared.vocab_size - 1)
