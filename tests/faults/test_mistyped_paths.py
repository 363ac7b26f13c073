"""A path with a mistake in it is answered at once with the nearest one that exists; only a hub id asks the hub."""

import pytest

from grow.common.errors import CheckpointError, DataError, GrowError
from grow.common.hub import refuse_mistyped
from grow.data.tokenizer import load_tokenizer
from grow.families.source_directory import find_source

MISTYPED = [
    # path, what the answer names
    ("outputs/sorce", "Did you mean outputs/source?"),
    ("./outputs/sorce", "Did you mean outputs/source?"),
    ("outputs/source/checkpoints/step-0000002", "Did you mean outputs/source/checkpoints/step-00000020?"),
    ("outputs/source/checkpoint/step-00000020", "Did you mean outputs/source/checkpoints?"),
    ("output/source/checkpoints", "Did you mean outputs?"),
    ("../nothing/like/it", "no such directory"),
    ("~/nowhere", "no such directory"),
    ("/nowhere/at/all", "no such directory"),
    ("outputs/config.json", "expected a directory, found a file"),
    ("a/b/c", "no such directory"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "outputs/source/checkpoints/step-00000020").mkdir(parents=True)
    (tmp_path / "outputs/config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)

    def asked(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)


@pytest.mark.parametrize(("path", "says"), MISTYPED)
def test_a_local_path_with_a_mistake_never_asks_the_hub(path, says, here):
    for read in (refuse_mistyped, find_source, load_tokenizer):
        with pytest.raises(GrowError) as raised:
            read(path)
        assert says in str(raised.value)
        assert "the hub was asked" not in str(raised.value)


@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing@main", "outputs/source2@main"])
def test_a_hub_id_asks_the_hub(name, here):
    refuse_mistyped(name)
    with pytest.raises(CheckpointError, match="the hub was asked"):
        find_source(name)
    with pytest.raises(DataError, match="the hub was asked"):
        load_tokenizer(name)


@pytest.mark.parametrize("name", ["", "nothing"])
def test_a_source_that_is_neither_is_refused(name, here):
    with pytest.raises(CheckpointError, match="no such directory"):
        find_source(name)
