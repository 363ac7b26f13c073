"""A manifest is checked, not believed: every mistake is a DataError that names the shard and the field."""

import json
from dataclasses import replace

import pytest

from grow.common.errors import DataError
from grow.data.manifest import VERSIONS, read_manifest, write_manifest
from grow.data.shards import TokenShards


def changed(directory, **changes) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


MISTAKES = [
    # a field of the second shard, its value, what the error names
    ("split", "test", "split 'test'"),
    ("file", "/etc/passwd", "file '/etc/passwd'"),
    ("file", "../train/x.npy", r"file '\.\./train/x\.npy'"),
    ("file", "train/../../x.npy", "file 'train/"),
    ("file", "train/./x.npy", r"file 'train/\./x\.npy'"),
    ("file", ".", r"file '\.'"),
    ("file", "", "file ''"),
    ("file", "a\0b", "file"),
    ("file", 5, r"shards\.1\.file"),
    ("source", "", "source ''"),
    ("start", -1, "start -1"),
    ("start", "0", r"shards\.1\.start"),
    ("tokens", -5, "tokens -5"),
    ("tokens", "12", r"shards\.1\.tokens"),
    ("tokens", None, r"shards\.1\.tokens"),
    ("tokens", 12.0, r"shards\.1\.tokens"),
    ("tokens", True, r"shards\.1\.tokens"),
    ("documents", -1, "documents -1"),
    ("documents", "3", r"shards\.1\.documents"),
    ("repeats", 0, "repeats 0"),
    ("sha256", None, r"shards\.1\.sha256"),
]


@pytest.mark.parametrize(("field", "value", "named"), MISTAKES)
def test_a_mistake_in_a_shard_is_named(copied, field, value, named):
    shards = json.loads((copied.path / "manifest.json").read_text())["shards"]
    shards[1][field] = value
    changed(copied.path, shards=shards)
    with pytest.raises(DataError, match=named):
        TokenShards.open(copied.path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"vocab_size": "400"}, "vocab_size"),
        ({"vocab_size": 2**16 + 1}, "which uint16 cannot hold"),
        ({"vocab_size": 0}, "vocab_size 0"),
        ({"eos_id": 400}, "eos_id 400, which is not below vocab_size 400"),
        ({"eos_id": -1}, "eos_id -1"),
        ({"shards": {"a": 1}}, "'shards'"),
        ({"shards": [5]}, r"shards\.0"),
        ({"root": 5}, "root"),
        ({"prepared": "today"}, "prepared"),
    ],
)
def test_a_mistake_in_the_whole_is_named(copied, changes, named):
    changed(copied.path, **changes)
    with pytest.raises(DataError, match=named):
        TokenShards.open(copied.path)


@pytest.mark.parametrize("second", [{}, {"split": "validation"}, {"start": 5, "tokens": 5}])
def test_tokens_that_are_listed_twice_are_refused(copied, second):
    shards = json.loads((copied.path / "manifest.json").read_text())["shards"]
    changed(copied.path, shards=[*shards, shards[0] | second])
    with pytest.raises(DataError, match=rf"shard '{shards[0]['file']}'.* the same tokens twice"):
        TokenShards.open(copied.path)


def test_a_link_may_lead_out_of_the_directory(copied, tmp_path):
    path = copied.path / copied.shards[0].file
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    TokenShards.open(copied.path).verify()


def test_version_1_is_read_and_its_digest_is_that_of_the_file(copied):
    from grow.common.provenance import sha256

    path = copied.path / "manifest.json"
    plain = json.loads(path.read_text())
    for shard in plain["shards"]:
        del shard["documents"], shard["repeats"]
    path.write_text(json.dumps(plain | {"version": 1}, indent=2))
    found = TokenShards.open(copied.path)
    assert found.digest == sha256(path)
    assert found.shards == tuple(replace(shard, documents=None) for shard in copied.shards)


def test_the_digest_of_version_2_is_that_of_the_tokens_wherever_they_lie(copied, tmp_path):
    written = {"dtype": copied.dtype, "vocab_size": copied.vocab_size, "eos_id": copied.eos_id}
    described = tmp_path / "described"
    (described / "tokenizer").mkdir(parents=True)
    (described / "tokenizer" / "tokenizer.json").write_bytes((copied.tokenizer_dir / "tokenizer.json").read_bytes())
    write_manifest(described, **written, shards=copied.shards, root=str(copied.path), prepared={"inputs": []})
    found = TokenShards.open(described)
    assert (found.files, found.digest) == (copied.path, copied.digest)
    assert (found.read(found.shards[0]) == copied.read(copied.shards[0])).all()
    write_manifest(described, **written, shards=copied.shards[1:], root=str(copied.path))
    assert read_manifest(described)[1] != copied.digest
    assert VERSIONS == (1, 2)


def test_a_shard_with_repeats_is_read_so_often_an_epoch(copied):
    first = next(shard for shard in copied.shards if shard.split == "train")
    shards = [replace(shard, repeats=2) if shard == first else shard for shard in copied.shards]
    written = {"dtype": copied.dtype, "vocab_size": copied.vocab_size, "eos_id": copied.eos_id}
    write_manifest(copied.path, **written, shards=shards)
    found = TokenShards.open(copied.path)
    extra = (first.tokens - 1) // 16
    assert len(found.windows("train", 16)) == len(copied.windows("train", 16)) + extra
    assert found.tokens("train") == copied.tokens("train") + first.tokens
    assert found.digest != copied.digest
