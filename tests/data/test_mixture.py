"""Mixtures: every sequence once a source's epoch, shares to within a sequence, one stream whatever reads it."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grow.common.errors import ConfigError
from grow.data.data_module import TokenDataModule
from grow.data.manifest import Shard
from grow.data.mixture import BLOCK, Mixture
from grow.data.order import order
from grow.data.run_order import run_order
from grow.data.settings import DataSettings, StageSettings
from grow.data.shard_files import ShardFiles
from grow.data.windows import Windows

LENGTH = 4
NAMES = "abcd"
SEEDS = st.integers(0, 2**32 - 1)
WEIGHTS = st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1), min_size=1).filter(
    lambda them: sum(them.values()) > 0
)
STAGES = st.lists(
    st.tuples(st.integers(0, 3 * BLOCK * LENGTH), WEIGHTS), min_size=1, max_size=4, unique_by=lambda s: s[0]
)


def staged(stages) -> Mixture:
    """The mixture of some stages, of which the first begins at once."""
    ordered = sorted(stages, key=lambda stage: stage[0])
    starts = [0, *(start for start, _ in ordered[1:])]
    plain = [{"from_tokens": start, "weights": weights} for start, (_, weights) in zip(starts, ordered, strict=True)]
    return Mixture.of(None, plain, LENGTH)


def counted(tmp_path, sizes) -> Windows:
    """Windows of sources of these sizes, each in two shards, which lie between those of the others."""
    parts = [(name, size // 2) for name, size in sizes.items()] + [(n, size - size // 2) for n, size in sizes.items()]
    shards = [
        Shard(file=str(number), split="train", source=name, start=0, tokens=size * LENGTH + 1, sha256="")
        for number, (name, size) in enumerate(parts)
    ]
    return Windows(shards, files=ShardFiles(), root=tmp_path, dtype=np.dtype("<u2"), sequence_length=LENGTH)


def sources_of(windows, indices) -> list[str]:
    return [windows.shards[shard].source for shard in windows.shards_of(indices).tolist()]


@settings(max_examples=30, deadline=None)
@given(stages=STAGES, seed=SEEDS, blocks=st.integers(1, 5))
def test_the_counts_of_a_stage_are_within_a_sequence_of_its_weights_after_every_block(stages, seed, blocks):
    mixture = staged(stages)
    found = np.array([mixture.read_before(block * BLOCK, seed) for block in range(blocks + 1)])
    assert (found.sum(axis=1) == np.arange(blocks + 1) * BLOCK).all()
    for number, (start, parts) in enumerate(zip(mixture.starts, mixture.parts, strict=True)):
        end = min([blocks, *mixture.starts[number + 1 : number + 2]])
        for block in range(start, end + 1):
            exact = (block - start) * BLOCK * np.array(parts) / 2**32
            off = np.abs(found[block] - found[start] - exact)
            heaviest = int(np.argmax(parts))
            assert (np.delete(off, heaviest) < 1).all()
            assert off[heaviest] < max(len(parts), 2)


@settings(max_examples=20, deadline=None)
@given(stages=STAGES, seed=SEEDS, stop=st.integers(1, 3 * BLOCK), cut=st.integers(0, 3 * BLOCK))
def test_a_source_gives_its_sequences_in_turn_wherever_a_run_stops_and_goes_on(stages, seed, stop, cut):
    mixture, cut = staged(stages), min(cut, stop)
    whole = mixture.places(np.arange(3 * BLOCK), seed)
    parts = [mixture.places(np.arange(*ends), seed) for ends in ((0, cut), (cut, stop))]
    for field in range(2):
        assert np.array_equal(np.concatenate([part[field] for part in parts]), whole[field][:stop])
    for source in range(len(mixture.sources)):
        numbers = whole[1][whole[0] == source]
        assert sorted(numbers.tolist()) == list(range(len(numbers)))
        assert mixture.read_before(stop, seed)[source] == (whole[0][:stop] == source).sum()


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.dictionaries(st.sampled_from(NAMES), st.integers(2, 40), min_size=1), stages=st.none() | STAGES, seed=SEEDS
)
def test_each_sequence_is_read_exactly_once_in_every_epoch_of_its_source(sizes, stages, seed, tmp_path_factory):
    sizes = {name: sizes.get(name, 3) for name in NAMES}
    windows = counted(tmp_path_factory.getbasetemp(), sizes)
    mixture = None if stages is None else staged(stages)
    reads = run_order(windows, seed, mixture)
    positions = np.arange(2 * BLOCK if mixture else 3 * len(windows))
    found = reads.windows_at(positions)
    assert np.array_equal(found[None], reads.windows_at(positions[None]))
    every = Counter(found.tolist())
    read = Counter(sources_of(windows, found))
    assert [read[source] for source in reads.sources] == reads.read_before(len(positions)).tolist()
    for window, source in enumerate(sources_of(windows, np.arange(len(windows)))):
        epochs, rest = divmod(read[source], sizes[source])
        assert epochs <= every[window] <= epochs + (rest > 0)


def global_order(shards, sequences, *, world_size=1, micro_batch=4, **options) -> torch.Tensor:
    """Sequences in the order in which all ranks together read them."""
    common = {"sequence_length": 16, "micro_batch": micro_batch, "seed": 7, "val_tokens": 160, **options}
    ranks = [TokenDataModule(shards, rank=rank, world_size=world_size, **common) for rank in range(world_size)]
    steps = -(-sequences // (world_size * micro_batch))
    streams = [list(islice(rank.train_dataloader(), steps)) for rank in ranks]
    return torch.cat([stream[step] for step in range(steps) for stream in streams])[:sequences]


@settings(max_examples=6, deadline=None)
@given(
    world_size=st.integers(1, 3),
    micro_batch=st.integers(1, 5),
    start=st.integers(0, 60),
    read_ahead=st.sampled_from([0, 1, 64]),
    mixed=st.booleans(),
)
def test_one_stream_for_any_ranks_micro_batch_read_ahead_and_stop(
    prepared, world_size, micro_batch, start, read_ahead, mixed
):
    mixture = Mixture.of({"first": 0.3, "web": 0.7}, None, 16) if mixed else None
    whole = global_order(prepared, 100, mixture=mixture)
    options = {"world_size": world_size, "micro_batch": micro_batch, "read_ahead": read_ahead, "mixture": mixture}
    assert torch.equal(global_order(prepared, 100 - start, start_sequence=start, **options), whole[start:])


def test_a_stage_begins_with_the_next_block_and_a_source_goes_on_where_it_was():
    mixture = staged([(0, {"a": 1}), (1, {"a": 1, "b": 1}), (5 * BLOCK * LENGTH, {"b": 1})])
    assert mixture.starts == (0, 1, 5)
    assert mixture.read_before(BLOCK, 0).tolist() == [BLOCK, 0]
    assert mixture.read_before(6 * BLOCK, 0).tolist() == [3 * BLOCK, 3 * BLOCK]


def test_without_a_mixture_the_order_is_that_of_all_windows(tmp_path):
    windows = counted(tmp_path, {"a": 9, "b": 5})
    positions = np.arange(40)
    assert np.array_equal(run_order(windows, 3, None).windows_at(positions), order(positions, 14, 3))


def test_beyond_the_positions_that_are_counted_a_source_has_its_share(tmp_path, monkeypatch):
    windows = counted(tmp_path, {"a": 300, "b": 100})
    exact = run_order(windows, 0, None)
    monkeypatch.setattr("grow.data.run_order.COUNTED_POSITIONS", 10)
    assert run_order(windows, 0, None).read_before(400 + 200).tolist() == [300 + 150, 100 + 50]
    assert run_order(windows, 0, None).read_before(409).tolist() == exact.read_before(409).tolist()


def test_a_run_that_would_read_a_source_too_often_is_refused(tmp_path):
    windows = counted(tmp_path, {"a": 300, "b": 3000})
    for mixture, most in ((None, BLOCK / 3300), (Mixture.of({"a": 1, "b": 1}, None, LENGTH), BLOCK / 2 / 300)):
        reads = run_order(windows, 0, mixture)
        reads.check_epochs(BLOCK, None)
        reads.check_epochs(BLOCK, most)
        with pytest.raises(ConfigError, match=r"data\.max_epochs=.* would read source a"):
            reads.check_epochs(BLOCK, most * 0.99)


def test_a_mixture_of_a_source_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="found news"):
        run_order(counted(tmp_path, {"a": 3}), 0, Mixture.of({"a": 1, "news": 1}, None, LENGTH))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mixture": {"a": -1.0, "b": 2.0}}, r"data\.mixture\.a=-1.0"),
        ({"mixture": {"a": 0.0}}, "a sum above 0"),
        ({"mixture": {}}, "a sum above 0"),
        ({"mixture": {"a": True}}, "expected numbers by source"),
        ({"mixture": {"a": "0.5"}}, "expected numbers by source"),
        ({"mixture": -1}, "expected numbers by source"),
        ({"mixture": "a"}, "expected numbers by source"),
        ({"mixture": {"a": float("nan")}}, r"data\.mixture\.a=nan"),
        ({"mixture": {f"s{number}": 1.0 for number in range(65)}}, "1 to 64 sources"),
        ({"mixture": {"a": 1.0}, "stages": [StageSettings(from_tokens=0, weights={"a": 1.0})]}, "one of the two"),
        ({"stages": [StageSettings(from_tokens=5, weights={"a": 1.0})]}, "begin with 0"),
        ({"stages": [StageSettings(from_tokens=start, weights={"a": 1.0}) for start in (0, 9, 9)]}, "and to rise"),
        ({"stages": []}, "begin with 0"),
        ({"max_epochs": 0.0}, r"data\.max_epochs=0"),
        ({"read_ahead": -1}, r"data\.read_ahead=-1"),
    ],
)
def test_settings_that_say_nothing_sensible_are_refused_by_name(keys, message):
    with pytest.raises(ConfigError, match=message):
        DataSettings(name="x", path="y", sequence_length=16, **keys)
