"""Checkpoints written while training goes on: what waits for the writer, what notices a failure, what is held."""

import errno
import json
import shutil
import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from grow.averaging.cadence import resolve
from grow.averaging.settings import AveragingSettings
from grow.cli.config import compose
from grow.common.digests import file_digest
from grow.common.errors import CheckpointError, PreemptedError
from grow.common.provenance import COMPLETE_FILE
from grow.distributed.ranks import Ranks
from grow.training.checkpoint_size import checkpoint_bytes
from grow.training.checkpoints import checkpoint_writer, retention
from grow.training.checkpoints.checkpoint_reader import AVERAGE_FILES, require_complete
from grow.training.checkpoints.digested_file import save_digested
from grow.training.checkpoints.integrity import difference
from grow.training.fit import peak_of_all
from grow.training.loop.preemption import Preemption
from grow.training.loop.progress import ProgressDisplay
from grow.training.loop.skipped import SkippedSteps

LAWA = ("averaging=lawa", "averaging.k=2", "averaging.start_tokens=0")


@pytest.fixture
def after_step(monkeypatch):
    """(hook) -> hook(step) is called after every step, before anything is done that is due then."""

    def arrange(hook):
        monkeypatch.setattr(ProgressDisplay, "advance", lambda display, step: hook(step))

    return arrange


def test_no_step_without_a_snapshot_waits_for_a_slow_write(train, tmp_path, monkeypatch, after_step):
    original, passed = checkpoint_writer.save_model, threading.Event()

    def slow(model, weights, directory):
        assert "step-00000003" not in directory.name or passed.wait(20), "step 5 waited for the checkpoint of step 3"
        original(model, weights, directory)

    monkeypatch.setattr(checkpoint_writer, "save_model", slow)
    after_step(lambda step: passed.set() if step == 5 else None)
    train(tmp_path / "run", *LAWA, "averaging.every_steps=3")


def test_a_write_that_failed_ends_the_run_at_the_next_step(train, tmp_path, monkeypatch, after_step):
    steps = []

    def full(model, weights, directory):
        raise OSError(errno.ENOSPC, "No space left on device")

    def note(step):
        steps.append(step)
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()

    monkeypatch.setattr(checkpoint_writer, "save_model", full)
    after_step(note)
    with pytest.raises(CheckpointError, match="step-00000003: cannot be written"):
        train(tmp_path / "run")
    assert steps == [1, 2, 3, 4]


@pytest.mark.parametrize(("in_a_row", "said"), [(0, "with a checkpoint"), (1, "without a checkpoint")])
def test_a_preempted_run_says_whether_it_saved(train, tmp_path, monkeypatch, in_a_row, said):
    """After a skipped step the weights may not be finite, so nothing is saved."""
    monkeypatch.setattr(Preemption, "agreed", lambda preemption: True)
    monkeypatch.setattr(SkippedSteps, "count", lambda skipped, *_: setattr(skipped, "in_a_row", in_a_row) or [])
    with pytest.raises(PreemptedError, match=f"128 tokens, {said}"):
        train(tmp_path / "run")


def test_the_peak_that_mfu_is_a_share_of_is_that_of_all_devices(monkeypatch):
    """Tokens a second are those of all ranks."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    plan = compose(["model=tiny", "growth=none", "trainer.precision=bf16"]).plan()
    alone, eight = (replace(plan, ranks=Ranks(world_size=ranks)) for ranks in (1, 8))
    device = torch.device("cuda", 0)
    assert peak_of_all(eight, device) == 8 * peak_of_all(alone, device) == 8 * 989e12


@pytest.fixture(scope="module")
def averaged(trained_once):
    """A run with permanent checkpoints at steps 4 and 8, the first with its window dropped, and a rolling one at 9."""
    return trained_once(*LAWA, "averaging.every_steps=2", "checkpoint.permanent_every_tokens=512")


def at(run, step):
    return run / "checkpoints" / f"step-{step:08}"


def test_a_checkpoint_has_the_size_that_is_reckoned_with(averaged):
    """A space check or an estimate that forgets the window is wrong by a factor."""
    steps = resolve(
        AveragingSettings(name="lawa", kind="lawa", k=2, every_steps=2),
        total_steps=10,
        tokens_per_step=128,
        warmup_tokens=0,
    )
    tensors = [file for kind in ("model", "optimizer", "average") for file in at(averaged, 10).glob(f"{kind}*")]
    found = sum(file.stat().st_size for file in tensors if file.suffix == ".safetensors")
    assert len(tensors) == 3
    assert 0 <= found - checkpoint_bytes(6480, steps) < 20_000  # headers


def test_the_space_check_asks_for_the_window_too(train, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(checkpoint_writer, "check_space", lambda directory, needed, output: asked.append(needed))
    train(tmp_path / "run", *LAWA, "averaging.every_steps=2")
    assert asked == [6480 * (12 + 4 * snapshots) for snapshots in (1, 2, 2, 2)]  # at steps 3, 6, 9 and 10


def test_a_permanent_checkpoint_drops_its_window_once_a_newer_checkpoint_exists(averaged):
    assert [bool(list(at(averaged, step).glob(AVERAGE_FILES))) for step in (4, 8, 9, 10)] == [False, False, True, True]
    assert require_complete(at(averaged, 8)).state.kind == "permanent"


def test_permanent_checkpoints_keep_their_windows_where_asked(train, tmp_path):
    more = ("averaging.every_steps=2", "checkpoint.permanent_every_tokens=512", "checkpoint.permanent_windows=true")
    run = train(tmp_path / "run", *LAWA, *more)
    assert all(list(at(run, step).glob(AVERAGE_FILES)) for step in (4, 8, 9, 10))


def test_a_permanent_checkpoint_that_is_passed_again_gets_its_window_back(averaged, tmp_path):
    """It is the newest one then, and a run that continued from it without the window would average fewer steps."""
    again, there = (shutil.copytree(at(averaged, 10), at(tmp_path / name, 10)) for name in ("again", "there"))
    retention._drop_window(there)
    assert not list(there.glob(AVERAGE_FILES)) and difference(there) is None
    retention.put_in_place(again, there)
    assert list(there.glob(AVERAGE_FILES)) and difference(there) is None
    assert not again.exists() and len(list(there.parent.iterdir())) == 1


def test_a_run_continued_from_a_permanent_checkpoint_without_window_fills_a_new_one(train, averaged, tmp_path):
    run = shutil.copytree(averaged, tmp_path / "run")
    for directory in (run / "model", run / "average", *(at(run, step) for step in (8, 9, 10))):
        shutil.rmtree(directory)
    train(run, *LAWA, "averaging.every_steps=2", "checkpoint.permanent_every_tokens=512")  # steps 6, 8 and 10
    found, expected = (path / "average" / "model.safetensors" for path in (run, averaged))
    assert found.read_bytes() == expected.read_bytes()


def test_files_are_digested_while_they_are_written_and_only_weights_are_read_again(train, tmp_path, monkeypatch):
    read = []
    original = checkpoint_writer.file_digest
    monkeypatch.setattr(
        checkpoint_writer, "file_digest", lambda path, threads: read.append(path.name) or original(path, threads)
    )
    run = train(tmp_path / "run", *LAWA, "averaging.every_steps=1", "trainer.max_tokens=384")
    (checkpoint,) = (run / "checkpoints").iterdir()
    noted = json.loads((checkpoint / COMPLETE_FILE).read_text())
    assert noted == {file.name: file_digest(file) for file in checkpoint.iterdir() if file.name != COMPLETE_FILE}
    assert sorted(read) == sorted(name for name in noted if not name.startswith(("optimizer", "average")))


def test_tensors_written_with_their_digest_are_what_the_library_reads(tmp_path):
    tensors = {
        "b": torch.arange(6.0).view(2, 3),
        "a": torch.tensor([1.5], dtype=torch.float64),
        "empty": torch.empty(0),
    }
    digest = save_digested(tensors, tmp_path / "file.safetensors", {"starts": "{}"})
    assert digest == file_digest(tmp_path / "file.safetensors")
    found = load_file(tmp_path / "file.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
