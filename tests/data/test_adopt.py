"""Shards of others are adopted as they are, checked token by token, and held out between documents."""

import numpy as np
import pytest

from grow.common.errors import DataError
from grow.data.shards import TokenShards
from grow.preparation.adopt import adopt


@pytest.fixture
def bare(tmp_path):
    """Two sources of raw uint16 shards, 20 documents of 9 tokens and an eos (0) a file."""
    draw = np.random.default_rng(0)
    for source, files in (("web", 3), ("wiki", 1)):
        (tmp_path / "bare" / source).mkdir(parents=True)
        for number in range(files):
            tokens = draw.integers(1, 300, (20, 10)).astype("<u2")
            tokens[:, -1] = 0
            tokens.tofile(tmp_path / "bare" / source / f"part-{number}-00000.npy")
    return tmp_path / "bare"


@pytest.fixture
def adopted(bare, prepared):
    def call(**changes) -> TokenShards:
        options = {"tokenizer": str(prepared.tokenizer_dir), "dtype": "uint16", "validation_tokens": 100}
        return adopt(bare, **(options | changes))

    return call


def test_every_token_is_in_one_split_and_the_files_are_untouched(bare, adopted):
    before = {path: path.read_bytes() for path in bare.rglob("*.npy")}
    shards = adopted()
    shards.verify()
    assert {path: path.read_bytes() for path in bare.rglob("*.npy")} == before
    assert shards.tokens("train") + shards.tokens("validation") == 800
    assert shards.sources == ("web", "wiki")


def test_each_source_holds_out_its_end_in_whole_documents(adopted):
    shards = adopted()
    held = [shard for shard in shards.shards if shard.split == "validation"]
    assert [(shard.file, shard.start, shard.tokens) for shard in held] == [
        ("web/part-2-00000.npy", 130, 70),
        ("wiki/part-0-00000.npy", 180, 20),
    ]


def test_what_is_held_out_may_span_files(adopted):
    held = [shard for shard in adopted(validation_tokens=400).shards if shard.split == "validation"]
    assert [(shard.file, shard.start, shard.tokens) for shard in held] == [
        ("web/part-1-00000.npy", 100, 100),
        ("web/part-2-00000.npy", 0, 200),
        ("wiki/part-0-00000.npy", 100, 100),
    ]


def test_a_truncated_file_is_refused_after_adopting(bare, adopted):
    adopted()
    path = bare / "web" / "part-2-00000.npy"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="part-2-00000"):
        TokenShards.open(bare)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 250}, "expected token ids below vocab_size=250, found 29"),
        ({"dtype": "uint32"}, "Is dtype right"),
        ({"eos_id": 399}, "found no such token"),
        ({"validation_tokens": 1}, "Change validation_tokens=1"),
        ({"validation_tokens": 10_000}, "Change validation_tokens=10000"),
    ],
    ids=str,
)
def test_wrong_facts_about_shards_are_refused(bare, adopted, changes, message):
    with pytest.raises(DataError, match=message):
        adopted(**changes)
    assert not (bare / "manifest.json").exists()


def test_four_byte_tokens_read_as_two_are_refused(bare, adopted):
    for path in bare.rglob("*.npy"):
        np.fromfile(path, "<u2").astype("<u4").tofile(path)
    with pytest.raises(DataError, match="Set dtype=uint32"):
        adopted()
    assert adopted(dtype="uint32").tokens("train") > 0


def test_files_with_a_numpy_header_are_refused(bare, adopted):
    np.save(bare / "web" / "saved.npy", np.ones(10, np.uint16))
    with pytest.raises(DataError, match=r"saved\.npy: expected raw token ids"):
        adopted()


def test_shards_with_a_manifest_are_not_adopted_again(adopted):
    adopted()
    with pytest.raises(DataError, match="already"):
        adopted()


def test_a_directory_without_shards_is_refused(prepared, tmp_path):
    with pytest.raises(DataError, match=r"expected \.npy shards"):
        adopt(tmp_path, tokenizer=str(prepared.tokenizer_dir), dtype="uint16", validation_tokens=1)


def test_a_directory_is_left_alone_when_the_manifest_goes_elsewhere(bare, adopted, tmp_path):
    before = sorted(bare.rglob("*"))
    shards = adopted(output=tmp_path / "out", workers=2)
    shards.verify()
    assert sorted(bare.rglob("*")) == before
    assert adopted(output=tmp_path / "again").shards == adopted().shards == shards.shards


def test_the_source_is_the_nearest_folder_that_differs(bare, adopted):
    for source in ("web", "wiki"):
        (bare / source).rename(bare / "moved")
        (bare / source / "v1_5").mkdir(parents=True)
        (bare / "moved").rename(bare / source / "v1_5" / "allenai_dolma")
    assert adopted().sources == ("web", "wiki")


def test_a_mix_names_sources_and_reads_a_path_as_often_as_it_is_listed(bare, adopted, tmp_path):
    lines = ["# common crawl", "cc,{TOKENIZER}/part-0-00000.npy", "cc,web/part-1-00000.npy", "cc,web/part-1-00000.npy"]
    (tmp_path / "mix").write_text("\n".join(lines))
    with pytest.raises(DataError, match="found 2 files"):
        adopted(mix=tmp_path / "mix")
    (bare / "wiki" / "part-0-00000.npy").rename(bare / "wiki" / "other.npy")
    shards = adopted(mix=tmp_path / "mix")
    assert shards.sources == ("cc",)
    assert {(shard.file, shard.split): shard.repeats for shard in shards.shards} == {
        ("web/part-0-00000.npy", "train"): 1,
        ("web/part-1-00000.npy", "train"): 2,
        ("web/part-1-00000.npy", "validation"): 1,
    }


def as_megatron(path, tokens):
    tokens.tofile(path.with_suffix(".bin"))
    header = b"MMIDIDX\x00\x00" + np.uint64(1).tobytes() + b"\x08" + np.array([20, 21], "<u8").tobytes()
    sizes, places = np.full(20, 10, "<i4"), np.arange(20, dtype="<i8") * 20
    path.with_suffix(".idx").write_bytes(
        header + sizes.tobytes() + places.tobytes() + np.arange(21, dtype="<i8").tobytes()
    )


def as_datatrove(path, tokens):
    tokens.tofile(path.with_suffix(".ds"))
    np.arange(10, 201, 10, dtype="<u8").tofile(path.with_suffix(".ds.index"))


@pytest.mark.parametrize(("write", "suffix"), [(as_megatron, ".bin"), (as_datatrove, ".ds")])
def test_files_of_others_are_compared_with_their_index(bare, adopted, tmp_path, write, suffix):
    expected = [(shard.start, shard.sha256, shard.documents) for shard in adopted(output=tmp_path / "out").shards]
    for path in list(bare.rglob("*.npy")):
        write(path, np.fromfile(path, "<u2"))
        path.unlink()
    found = adopted(output=tmp_path / "out2").shards
    assert [(shard.start, shard.sha256, shard.documents) for shard in found] == expected
    first = bare / "web" / f"part-0-00000{suffix}"
    tokens = np.fromfile(first, "<u2")
    tokens[:-10].tofile(first)
    with pytest.raises(DataError, match="expected the 200 tokens of its index, found 190"):
        adopted(output=tmp_path / "out3")
    np.roll(tokens, 1).tofile(first)
    with pytest.raises(DataError, match="where the index ends a document"):
        adopted(output=tmp_path / "out3")
