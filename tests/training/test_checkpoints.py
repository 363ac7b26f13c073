"""Checkpoints on disk: which are kept, which are refused, what an export of one is, what a run may change."""

import errno
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from grow.common import metric_names as names
from grow.common.errors import CheckpointError, ConfigError
from grow.common.files import disk_errors_named
from grow.training.checkpoints.checkpoint_reader import (
    OPTIMIZER_FILES,
    STARTS,
    Checkpoint,
    SavedFragments,
    newest_checkpoint,
    require_complete,
)
from grow.training.checkpoints.engine_export import export_checkpoint


@pytest.fixture(scope="module")
def trained(trained_once):
    """A run with checkpoints at steps 3, 6, 9 and 10."""
    return trained_once("checkpoint.keep_last=9")


@pytest.fixture
def run(trained, tmp_path):
    """A copy, to be damaged."""
    return shutil.copytree(trained, tmp_path / "run")


def steps(run):
    return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE = {
    "truncated weights": lambda at: truncate(at(10) / "model.safetensors"),
    "another step's moments": lambda at: shutil.copy(
        *(at(n) / "optimizer-00000-of-00001.safetensors" for n in (9, 10))
    ),
    "a shard that is gone": lambda at: (at(10) / "optimizer-00000-of-00001.safetensors").unlink(),
    "an edited state": lambda at: (at(10) / "state.json").write_text((at(10) / "state.json").read_text() + " "),
    "digests cut short": lambda at: truncate(at(10) / "COMPLETE.json"),
    "no digests": lambda at: (at(10) / "COMPLETE.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(run, damage):
    DAMAGE[damage](lambda step: run / "checkpoints" / f"step-{step:08}")
    checkpoint, skipped = newest_checkpoint(run / "checkpoints")
    assert checkpoint.path.name == "step-00000009"
    assert len(skipped) == 1 and "step-00000010" in skipped[0]
    with pytest.raises(CheckpointError, match="step-00000010: expected a complete checkpoint"):
        require_complete(run / "checkpoints" / "step-00000010")


def test_a_checkpoint_that_does_not_exist_is_called_missing_not_unfinished(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: no such directory"):
        export_checkpoint(tmp_path / "nowhere", tmp_path / "out")


def test_checkpoints_that_were_swapped_are_both_refused(run):
    first, second, other = (run / "checkpoints" / name for name in ("step-00000009", "step-00000010", "elsewhere"))
    first.rename(other)
    second.rename(first)
    other.rename(second)
    checkpoint, skipped = newest_checkpoint(run / "checkpoints")
    assert checkpoint.path.name == "step-00000006"
    assert [line.rpartition(": ")[2] for line in skipped] == ["it holds step 9.", "it holds step 10."]


def test_permanent_checkpoints_stay_and_rolling_ones_go(train, tmp_path):
    run = train(tmp_path / "run", "checkpoint.every_tokens=128", "checkpoint.permanent_every_tokens=512")
    assert steps(run) == [4, 8, 9, 10]
    kinds = {step: Checkpoint(run / "checkpoints" / f"step-{step:08}").state.kind for step in steps(run)}
    assert kinds == {4: "permanent", 8: "permanent", 9: "rolling", 10: "rolling"}


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_moments_saved_in_any_pieces_are_read_back_in_any_others(tmp_path, pieces):
    whole = torch.arange(17.0)
    cuts = [17 * piece // pieces for piece in range(pieces + 1)]
    for rank in range(pieces):
        piece = whole[cuts[rank] : cuts[rank + 1]].clone()
        tensors = {"w/exp_avg": piece, "w/exp_avg_sq": piece * 2}
        path = tmp_path / f"optimizer-{rank:05}-of-{pieces:05}.safetensors"
        save_file(tensors, path, metadata={STARTS: json.dumps({"w": cuts[rank]})})
    saved = SavedFragments(tmp_path, OPTIMIZER_FILES)
    for start, stop in ((0, 17), (3, 4), (5, 17), (0, 9)):
        out = torch.full((stop - start,), -1.0)
        saved.read("w/exp_avg_sq", start, out)
        assert torch.equal(out, 2 * whole[start:stop])
    with pytest.raises(CheckpointError, match="expected elements 10 to 20"):
        saved.read("w/exp_avg", 10, torch.empty(10))


def test_background_writing_changes_nothing(train, tmp_path, trained):
    run = train(tmp_path / "run", "checkpoint.background=false", "checkpoint.keep_last=9")
    for step in (3, 10):
        for file in ("model.safetensors", "optimizer-00000-of-00001.safetensors", "rng.safetensors"):
            name = f"checkpoints/step-{step:08}/{file}"
            assert (run / name).read_bytes() == (trained / name).read_bytes(), name


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_leaves_the_ones_before(train, tmp_path, monkeypatch):
    from grow.training.checkpoints import checkpoint_writer

    original = checkpoint_writer.save_model

    def full(model, weights, directory):
        if "step-00000006" in directory.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(model, weights, directory)

    monkeypatch.setattr(checkpoint_writer, "save_model", full)
    with pytest.raises(CheckpointError, match=r"step-00000006: cannot be written \(No space left on device"):
        train(tmp_path / "run")
    assert newest_checkpoint(tmp_path / "run" / "checkpoints")[0].state.step == 3


def test_a_read_only_directory_is_one_clear_error(tmp_path):
    with (
        pytest.raises(CheckpointError, match=r"cannot be written \(Read-only file system"),
        disk_errors_named(tmp_path),
    ):
        raise OSError(errno.EROFS, "Read-only file system")
    with pytest.raises(KeyError), disk_errors_named(tmp_path):
        raise KeyError("not a disk's")


def test_an_exported_checkpoint_is_a_stock_model_that_computes_the_same(run, tmp_path):
    checked = export_checkpoint(run / "checkpoints" / "step-00000010", tmp_path / "out")
    assert checked.max_abs_logit_diff == 0
    final, exported = (load_file(path / "model.safetensors") for path in (run / "model", tmp_path / "out"))
    assert final.keys() == exported.keys()
    assert all(torch.equal(final[name], exported[name]) for name in final)
    assert (tmp_path / "out" / "tokenizer.json").exists()
    lineage = json.loads((tmp_path / "out" / "lineage.json").read_text())
    assert lineage["tokens"] == 1280


def test_a_damaged_checkpoint_is_not_exported(run, tmp_path):
    truncate(run / "checkpoints" / "step-00000010" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not what was written"):
        export_checkpoint(run / "checkpoints" / "step-00000010", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def unfinished(run):
    shutil.rmtree(run / "model")
    for step in (9, 10):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08}")
    return run


def test_what_only_changes_rounding_may_change_between_two_starts_and_is_recorded(train, run, capsys):
    train(unfinished(run), "checkpoint.keep_last=9", "trainer.micro_batch=2")
    assert "trainer.micro_batch: 4 there, 2 here" in capsys.readouterr().out
    changes = json.loads((run / "run.json").read_text())["changes"]
    assert changes[0]["keys"] == ["trainer.micro_batch: 4 there, 2 here"]


def test_another_learning_rate_is_refused_unless_it_is_asked_for(train, run, rows):
    more = ("checkpoint.keep_last=9", "optimizer.lr=0.002")
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.01 there, 0\.002 here.*Add resume=changed"):
        train(unfinished(run), *more)
    train(run, *more, "resume=changed")
    rates = {row["step"]: row[names.LEARNING_RATE] for row in rows(run) if names.LEARNING_RATE in row}
    assert rates[6] > 0.002 > rates[8]


def test_another_batch_is_taken_on_request_and_steps_go_on_counting(train, run, rows):
    train(unfinished(run), "checkpoint.keep_last=9", "trainer.tokens_per_step=256", "resume=changed")
    found = [(row["step"], row["tokens"]) for row in rows(run) if names.TRAIN_LOSS in row]
    assert (6, 768) in found
    assert found[-1] == (8, 1280)


def test_another_model_or_seed_is_never_taken(train, run):
    with pytest.raises(ConfigError, match="seed: 0 there, 1 here") as error:
        train(unfinished(run), "checkpoint.keep_last=9", "seed=1", "resume=changed")
    assert "resume=changed" not in str(error.value)
