"""Batches: one global order whatever the ranks and the micro-batch, and resuming is a seek."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from grow.common.errors import ConfigError, DataError
from grow.data.data_module import TokenDataModule
from grow.data.order import order
from grow.data.settings import DataSettings


def module(shards, **changes) -> TokenDataModule:
    options = {"sequence_length": 16, "micro_batch": 4, "seed": 7, "val_tokens": 160}
    return TokenDataModule(shards, **(options | changes))


def batches(loader, count: int) -> list[torch.Tensor]:
    return list(itertools.islice(loader, count))


def global_order(
    shards, sequences: int, *, world_size: int, micro_batch: int, start: int = 0, **changes
) -> torch.Tensor:
    """Sequences in the order all ranks together read them."""
    ranks = [
        module(shards, micro_batch=micro_batch, rank=rank, world_size=world_size, start_sequence=start, **changes)
        for rank in range(world_size)
    ]
    steps = -(-sequences // (world_size * micro_batch))
    streams = [batches(rank.train_dataloader(), steps) for rank in ranks]
    return torch.cat([stream[step] for step in range(steps) for stream in streams])[:sequences]


def test_a_batch_is_int64_tokens_with_one_more_than_the_sequence(prepared):
    batch = next(iter(module(prepared).train_dataloader()))
    assert batch.dtype == torch.int64
    assert batch.shape == (4, 17)
    assert isinstance(module(prepared).train_dataloader(), DataLoader)


def test_sequences_are_read_in_the_order_of_the_seed(prepared):
    windows = prepared.windows("train", 16)
    expected = windows.take(order(np.arange(40), len(windows), 7))
    assert np.array_equal(torch.cat(batches(module(prepared).train_dataloader(), 10)), expected)


@pytest.mark.parametrize(("world_size", "micro_batch"), [(2, 2), (4, 1), (1, 1), (3, 5)])
def test_the_global_order_is_one_for_all_ranks_and_micro_batches(prepared, world_size, micro_batch):
    expected = global_order(prepared, 60, world_size=1, micro_batch=4)
    assert torch.equal(global_order(prepared, 60, world_size=world_size, micro_batch=micro_batch), expected)


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 4), (2, 3)])
def test_resuming_is_a_seek(prepared, world_size, micro_batch):
    whole = global_order(prepared, 100, world_size=1, micro_batch=4)
    rest = global_order(prepared, 64, world_size=world_size, micro_batch=micro_batch, start=36)
    assert torch.equal(rest, whole[36:])


def test_the_order_goes_on_beyond_a_block_and_an_epoch(prepared, monkeypatch):
    windows = len(prepared.windows("train", 16))
    monkeypatch.setattr("grow.data.data_module.POSITIONS_PER_BLOCK", 10)
    expected = order(np.arange(2 * windows), windows, 7)
    found = global_order(prepared, 2 * windows, world_size=2, micro_batch=3)
    assert np.array_equal(found, prepared.windows("train", 16).take(expected))


def test_shards_are_named_in_the_order_in_which_they_are_read_each_once(prepared):
    found = module(prepared).reading_order(10**6)
    assert sorted(shard.file for shard in found) == sorted(shard.file for shard in prepared.shards)
    assert [shard.split for shard in found] == sorted((shard.split for shard in found), reverse=True)
    for start in range(5):
        data = module(prepared, start_sequence=start)
        sequence = next(iter(data.train_dataloader()))[0].numpy().astype("<u2").tobytes()
        (first,) = [shard for shard in data.reading_order(1) if shard.split == "train"]
        assert sequence in (prepared.path / first.file).read_bytes()


def test_every_shard_is_named_where_a_run_reads_more_sequences_than_are_looked_at(prepared, monkeypatch):
    monkeypatch.setattr("grow.data.data_module.POSITIONS_LOOKED_AT", 1)
    found = module(prepared).reading_order(2)
    assert sorted(shard.file for shard in found) == sorted(shard.file for shard in prepared.shards)


def test_seeds_give_other_orders(prepared):
    first, second = (batches(module(prepared, seed=seed).train_dataloader(), 5) for seed in (0, 1))
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_validation_is_always_the_same_and_split_over_ranks(prepared):
    whole = torch.cat(list(module(prepared).val_dataloader()))
    assert len(whole) == 10
    for world_size, micro_batch, seed in ((1, 3, 0), (2, 4, 1), (3, 2, 2)):
        ranks = [
            module(prepared, micro_batch=micro_batch, seed=seed, rank=rank, world_size=world_size, start_sequence=99)
            for rank in range(world_size)
        ]
        found = [batch for rank in ranks for batch in rank.val_dataloader()]
        assert torch.equal(torch.cat(found), whole)
        assert max(map(len, found)) <= micro_batch


def test_a_longer_validation_begins_with_the_shorter_one(prepared):
    short = torch.cat(list(module(prepared, val_tokens=160).val_dataloader()))
    long = torch.cat(list(module(prepared, val_tokens=320).val_dataloader()))
    assert torch.equal(long[:10], short)


def test_validation_reads_the_held_out_split(prepared):
    held = {tuple(row) for row in prepared.windows("validation", 16).take(np.arange(20)).tolist()}
    every = len(prepared.windows("validation", 16)) * 16
    found = {tuple(row.tolist()) for batch in module(prepared, val_tokens=every).val_dataloader() for row in batch}
    assert held <= found
    assert len(found) == every // 16


def test_validation_can_be_left_out(prepared):
    assert list(module(prepared, val_tokens=0).val_dataloader()) == []


def test_more_validation_than_there_is_is_refused_with_what_there_is(prepared):
    with pytest.raises(
        DataError, match=rf"validation split, found \d+ windows of 16 \({prepared.tokens('validation')} tokens\)"
    ):
        module(prepared, val_tokens=10**6)


def test_a_sequence_longer_than_every_shard_is_refused(prepared):
    with pytest.raises(DataError, match=r"Shorten data\.sequence_length"):
        module(prepared, sequence_length=10**6)


def test_to_read_batches_draws_nothing_from_the_generator_that_dropout_draws_from(prepared):
    before, data = torch.get_rng_state(), module(prepared)
    batches(data.train_dataloader(), 2)
    batches(data.val_dataloader(), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_file_that_is_cut_under_a_reader_is_an_error_with_its_name(copied):
    loader = iter(module(copied, read_ahead=4).train_dataloader())
    next(loader)
    for shard in copied.of_split("train"):
        (copied.path / shard.file).write_bytes(b"")
    with pytest.raises(DataError, match=r"train/.*\.npy: expected a shard of .* found 0 of 34 bytes"):
        next(loader)


def test_damage_replaces_the_sequences_of_one_stretch_and_nothing_else(prepared):
    whole = global_order(prepared, 40, world_size=1, micro_batch=4)
    damaged = torch.cat(batches(module(prepared, damaged_tokens=[16 * 12, 16 * 16]).train_dataloader(), 10))
    changed = (damaged != whole).any(dim=1).nonzero().flatten()
    assert changed.tolist() == [12, 13, 14, 15]
    assert damaged.min() >= 0 and damaged.max() < prepared.vocab_size
    assert len({tuple(row) for row in damaged[12:16].tolist()}) == 4
    validation = [next(iter(module(prepared, **keys).val_dataloader())) for keys in ({}, {"damaged_tokens": [0, 160]})]
    assert torch.equal(*validation)


def test_damage_is_the_same_for_any_ranks_and_micro_batches_and_after_resuming(prepared):
    expected = global_order(prepared, 40, world_size=1, micro_batch=4, damaged_tokens=[160, 320])
    assert torch.equal(global_order(prepared, 40, world_size=3, micro_batch=2, damaged_tokens=[160, 320]), expected)
    rest = global_order(prepared, 25, world_size=1, micro_batch=4, start=15, damaged_tokens=[160, 320])
    assert torch.equal(rest, expected[15:])


@pytest.mark.parametrize("stretch", [[5, 5], [-1, 5], [3], [1, 2, 3]])
def test_a_stretch_to_damage_has_a_first_token_and_an_end(stretch):
    with pytest.raises(ConfigError, match=r"data\.damaged_tokens=.*FIRST before END"):
        DataSettings(name="x", path="y", sequence_length=16, damaged_tokens=stretch)
