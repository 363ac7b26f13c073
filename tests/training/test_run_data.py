"""A run that continues reads the shards it began with, from wherever they lie, and in the mixture it has read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from grow.common.errors import ConfigError, DataError
from grow.common.provenance import sha256
from grow.data.manifest import Shard, write_manifest
from grow.data.mixture import Mixture
from grow.data.shards import TokenShards
from tests.training.tiny import LENGTH, VOCAB

FIRST, ALL = ("trainer.max_tokens=512",), ("trainer.max_tokens=1280", "resume=changed")


@pytest.fixture
def begun(trained_once, tmp_path):
    """A finished first part of a run, whose model is taken away so that it can go on."""
    shutil.copytree(trained_once(*FIRST), tmp_path / "run", ignore=shutil.ignore_patterns("model"))
    return tmp_path / "run"


def copy_of(shards_dir: Path, directory: Path) -> Path:
    shutil.copytree(shards_dir, directory)
    return directory


def add_source(directory: Path, name: str) -> Path:
    """Give shards a second source of training text."""
    tokens = np.random.default_rng(1).integers(1, VOCAB, 2000).astype("<u2")
    tokens.tofile(directory / "train" / f"{name}.npy")
    digest = sha256(directory / "train" / f"{name}.npy")
    more = Shard(file=f"train/{name}.npy", split="train", source=name, start=0, tokens=2000, sha256=digest)
    shards = [*TokenShards.open(directory).shards, more]
    write_manifest(directory, dtype="uint16", vocab_size=VOCAB, eos_id=0, shards=shards)
    return directory


def test_a_run_goes_on_with_its_data_where_they_were_moved_to(begun, train, shards_dir, tmp_path):
    written = json.loads((begun / "data.json").read_text())["shards"]
    assert [shard["file"] for shard in written] == [shard.file for shard in TokenShards.open(shards_dir).shards]
    there = copy_of(shards_dir, tmp_path / "there")
    train(begun, f"data.path={there}", *ALL)
    assert json.loads((begun / "run.json").read_text())["data"]["path"] == str(there)


@pytest.mark.parametrize("resume", ["exact", "changed"])
def test_other_data_are_refused_before_the_model_is_built_and_the_difference_is_listed(
    begun, train, shards_dir, tmp_path, resume, monkeypatch
):
    run = begun
    before = (run / "run.json").read_text()
    other = add_source(copy_of(shards_dir, tmp_path / "here"), "news")
    np.ones(600, "<u2").tofile(other / "validation" / "0.npy")
    shards = [
        Shard(file=f"{split}/{name}.npy", split=split, source="made", start=0, tokens=count, sha256=digest)
        for split, name, count, digest in (("train", "news", 2000, "a"), ("validation", "0", 600, "b"))
    ]
    write_manifest(other, dtype="uint16", vocab_size=VOCAB, eos_id=0, shards=shards)
    monkeypatch.setattr("grow.training.start.choose_start", None)
    with pytest.raises(
        DataError, match=r"added: train/news\.npy; removed: train/0\.npy; changed: validation/0\.npy\).*run_dir"
    ) as caught:
        train(run, f"data.path={other}", "trainer.max_tokens=512", f"resume={resume}")
    assert caught.value.exit_code == 77
    assert (run / "run.json").read_text() == before
    (run / "data.json").unlink()
    with pytest.raises(DataError, match=r"digest \w{64}\), found others \(\w{64}\)"):
        train(run, f"data.path={other}", "trainer.max_tokens=512", f"resume={resume}")


@pytest.mark.slow
def test_a_run_begun_anew_takes_any_data(begun, train, shards_dir, tmp_path):
    data = add_source(copy_of(shards_dir, tmp_path / "here"), "news")
    train(begun, f"data.path={data}", "trainer.max_tokens=128", "resume=fresh")
    assert len(json.loads((begun / "data.json").read_text())["shards"]) == 3


def test_rows_count_what_was_read_of_each_source_without_a_mixture_too(begun, rows):
    last = [row for row in rows(begun) if "train/loss" in row][-1]
    epochs = 512 / LENGTH / (3999 // LENGTH)
    assert (last["data/made/tokens"], last["data/made/epochs"]) == (512, epochs)


def stages(*parts: tuple[int, str]) -> str:
    written = [f"{{from_tokens: {start}, weights: {{{weights}}}}}" for start, weights in parts]
    return f"data.stages=[{', '.join(written)}]"


@pytest.mark.slow
def test_stages_that_lie_ahead_may_change_on_request_and_those_behind_may_not(
    train, shards_dir, tmp_path, rows, monkeypatch
):
    monkeypatch.setattr("grow.data.mixture.BLOCK", 8)
    run, where = tmp_path / "run", f"data.path={add_source(copy_of(shards_dir, tmp_path / 'here'), 'news')}"
    with pytest.raises(ConfigError, match=r"data\.max_epochs=0\.09: the run would read source made"):
        train(run, where, *FIRST, "data.mixture={made: 3, news: 1}", "data.max_epochs=0.09")
    assert not (run / "run.json").exists()
    train(run, where, *FIRST, "data.mixture={made: 3, news: 1}", "data.max_epochs=1")
    shutil.rmtree(run / "model")
    with pytest.raises(ConfigError, match=r"data\.stages.*Add resume=changed"):
        train(run, where, *FIRST, stages((0, "made: 3, news: 1"), (640, "news: 1")))
    for behind in (stages((0, "made: 3, news: 1"), (300, "news: 1")), "data.mixture={news: 1}", "data.mixture=null"):
        with pytest.raises(ConfigError, match="Change stages that lie ahead only"):
            train(run, where, behind, *ALL)
    train(run, where, stages((0, "made: 0.75, news: 0.25"), (640, "news: 1")), *ALL)
    columns = [row for row in rows(run) if "train/loss" in row]
    assert columns[-1]["data/made/tokens"] == 480 and columns[-1]["data/news/tokens"] == 800
    for row in columns:
        made, news = row["data/made/tokens"], row["data/news/tokens"]
        assert (made + news, made) == (row["tokens"], min(row["tokens"], 640) * 3 / 4)
        assert row["data/news/epochs"] == news / LENGTH / (1999 // LENGTH)


def test_weights_of_one_ratio_are_one_mixture():
    of = [Mixture.of({"a": a, "b": b}, None, 16).begun(1) for a, b in ((1, 3), (0.25, 0.75), (2.0, 6.0))]
    assert of[0] == of[1] == of[2]
