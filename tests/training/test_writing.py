"""Checkpoints written while training goes on: what waits for the writer, what notices a failure, what is held."""

import errno
import threading
from dataclasses import replace

import pytest
import torch

from grow.cli.config import compose
from grow.common.errors import CheckpointError, PreemptedError
from grow.distributed.ranks import Ranks
from grow.training.checkpoints import checkpoint_writer
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
