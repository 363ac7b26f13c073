"""Shards that change on disk: a run, an evaluation and every reader name the file and end with 77, and save nothing."""

import functools
import threading

import pytest

from benchmarks.forks import wait
from grow.common.errors import DataError
from grow.data import digest_check
from grow.data.digest_check import DigestCheck
from grow.data.shards import TokenShards
from grow.evaluation.evaluate import plan_evaluations
from grow.evaluation.settings import EvalConfig, EvaluationSettings
from grow.training.step.module import PretrainModule
from tests.training.tiny import command_line, in_process, make_shards


def overwrite_first_half(path):
    raw = bytearray(path.read_bytes())
    raw[: len(raw) // 2] = bytes(len(raw) // 2)
    path.write_bytes(raw)


def flip_a_bit_of_the_last_token(path):
    raw = bytearray(path.read_bytes())
    raw[-2] ^= 1
    path.write_bytes(raw)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


DAMAGE = (overwrite_first_half, flip_a_bit_of_the_last_token, cut, empty)
FILES = ("train/0.npy", "validation/0.npy")


@pytest.fixture
def shards_dir(tmp_path):
    return make_shards(tmp_path)


@pytest.fixture
def train(shards_dir, tmp_path):
    """(*overrides) -> the run directory, after train.py's task ran in this process."""
    return functools.partial(in_process(shards_dir), tmp_path / "run")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_run_over_a_damaged_shard_ends_with_77_and_its_name_before_it_trains(
    train, shards_dir, tmp_path, damage, file
):
    damage(shards_dir / file)
    with pytest.raises(DataError, match=file) as caught:
        train()
    assert caught.value.exit_code == 77
    assert not list(tmp_path.glob("run/checkpoints/step-*"))
    assert not (tmp_path / "run" / "model").exists()


@pytest.fixture
def found_in_step_4(monkeypatch):
    """Let no shard count as small, and compare them while the run is in its fourth step."""
    in_step_4, compared = threading.Event(), threading.Event()
    step, compare = PretrainModule.optimizer_step, DigestCheck._compare

    def wait_in_step_4(self, *args, **kwargs):
        if self.clock.step == 3:
            in_step_4.set()
            assert compared.wait(60)
        step(self, *args, **kwargs)

    def compare_in_step_4(self):
        assert in_step_4.wait(60)
        compare(self)
        compared.set()

    monkeypatch.setattr(digest_check, "WAITED_FOR_BYTES", 0)
    monkeypatch.setattr(PretrainModule, "optimizer_step", wait_in_step_4)
    monkeypatch.setattr(DigestCheck, "_compare", compare_in_step_4)


def test_damage_that_is_found_while_the_run_trains_ends_it_and_no_later_checkpoint_is_written(
    train, shards_dir, tmp_path, found_in_step_4
):
    overwrite_first_half(shards_dir / "validation" / "0.npy")
    with pytest.raises(DataError, match=r"validation/0\.npy.*Checkpoints after 0 tokens"):
        train()
    assert [path.name for path in tmp_path.glob("run/checkpoints/step-*")] == ["step-00000003"]
    assert not (tmp_path / "run" / "model").exists()


def test_a_run_that_ends_before_its_shards_were_compared_says_so(train, monkeypatch, capfd):
    monkeypatch.setattr(digest_check, "WAITED_FOR_BYTES", 0)
    trained = threading.Event()
    monkeypatch.setattr(TokenShards, "check", lambda self, shard: trained.wait(60))
    train("trainer.max_tokens=256", "checkpoint.every_tokens=null")
    trained.set()
    assert "2 shards were not yet compared with their digests" in capfd.readouterr().out


@pytest.mark.slow
def test_all_ranks_end_with_77_where_one_finds_a_damaged_shard(shards_dir, tmp_path):
    from benchmarks.forks import import_everything, start_ranks

    import_everything()
    overwrite_first_half(shards_dir / "train" / "0.npy")
    ranks = start_ranks(2, command_line(shards_dir, tmp_path / "run", "strategy=ddp"), tmp_path / "log")
    assert wait(ranks) == [77, 77]
    assert "train/0.npy" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("damage", DAMAGE[:2])
def test_an_evaluation_of_damaged_held_out_text_is_refused_before_it_starts(train, shards_dir, tmp_path, damage):
    run = train("trainer.max_tokens=128", "checkpoint.every_tokens=null")
    damage(shards_dir / "validation" / "0.npy")
    config = EvalConfig(
        checkpoints=str(run / "model"), evaluation=EvaluationSettings(name="x", tasks=[]), heldout=str(shards_dir)
    )
    with pytest.raises(DataError, match=r"validation/0\.npy"):
        plan_evaluations(config)


@pytest.mark.parametrize("damage", [cut, empty])
def test_a_shard_that_is_cut_after_it_was_opened_is_named(shards_dir, damage):
    shards = TokenShards.open(shards_dir)
    damage(shards_dir / "train" / "0.npy")
    for read in (shards.read, shards.check):
        with pytest.raises(DataError, match=r"train/0\.npy: expected a shard of"):
            read(shards.shards[0])
