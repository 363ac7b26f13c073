"""Runs that start from a smaller model: what they start with, what they record, what they warn of."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from grow.common import metric_names as names
from grow.common.errors import GrowthError
from grow.common.provenance import read_lineage
from grow.data.settings import DataSettings
from grow.distributed import processes
from grow.training import session, start
from grow.training.loop.callback import LoopCallback
from grow.training.run_directory import RunDirectory

TWICE = ("model.embed=32", "model.heads=4", "model.kv_heads=4", "model.ffn=48")


@pytest.fixture
def source(trained_once, tmp_path):
    return shutil.copytree(trained_once(), tmp_path / "source")


@pytest.fixture
def grown(train, tmp_path, source):
    """(*more) -> a run grown from a trained source."""
    return lambda *more: train(tmp_path / "grown", *TWICE, f"growth.source={source}", *more)


def test_a_grown_model_starts_with_its_sources_loss(grown, source, rows):
    first = rows(grown("growth=hyperclone_noisy"))[0]
    assert first["tokens"] == 0
    assert first[names.VAL_LOSS] == pytest.approx(rows(source)[-1][names.VAL_LOSS], abs=1e-4)
    assert 0 <= first[names.MAX_LOGIT_DIFF] < 1e-3


def test_a_grown_run_records_the_growth_and_removes_its_temporary_model(grown, source):
    run = grown("growth=hyperclone_noisy")
    growth = json.loads((run / "growth.json").read_text())
    assert growth["preserved"] is True
    assert growth["tokens"] == 4 * 16  # the proof runs on whole sequences of the run's own text
    assert not (run / "grown").exists()
    lineage = json.loads((run / "run.json").read_text())["lineage"]
    assert lineage["source"] == str(source)
    assert lineage["tokens"] == 1280


def test_an_exported_model_has_cost_what_its_source_and_its_run_cost(grown, source):
    run = grown("growth=hyperclone_noisy")
    spent, before = read_lineage(run / "model"), read_lineage(source / "model")
    own = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert before.tokens == 1280
    assert spent.tokens == 2560
    assert spent.flops == before.flops + own["flops"]
    assert spent.seconds > before.seconds
    card = (run / "model" / "README.md").read_text()
    assert f"| tokens | {spent.tokens:,} |" in card
    assert "function kept" in card
    assert "| `val/loss` |" in card


def test_the_cost_of_a_source_that_nobody_recorded_stays_unknown(grown, source):
    (source / "model" / "lineage.json").unlink()
    spent = read_lineage(grown("growth=hyperclone_noisy") / "model")
    assert (spent.tokens, spent.flops, spent.seconds) == (None, None, None)


@pytest.mark.parametrize(
    ("growth", "warned"), [("hyperclone", 1), ("hyperclone_diagonal", 1), ("hyperclone_noisy", 0), ("identity", 0)]
)
def test_copies_that_nothing_tells_apart_are_warned_of_in_one_line(train, tmp_path, source, capsys, growth, warned):
    sizes = () if growth == "identity" else TWICE
    train(tmp_path / "run", *sizes, f"growth={growth}", f"growth.source={source}", "trainer.max_tokens=128")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert len(lines) == warned
    assert all("growth.snr_db=10" in line and "growth.share=uneven" in line for line in lines)


def test_grown_weights_learn_slower_by_their_copies_also_after_resuming(grown, monkeypatch):
    groups = []
    original = LoopCallback.on_train_start

    def on_train_start(self, trainer, module):
        original(self, trainer, module)
        groups.append(sorted((group["peak_lr"], group["weight_decay"]) for group in trainer.optimizers[0].param_groups))
        if len(groups) == 2:
            raise RuntimeError("seen")

    monkeypatch.setattr(LoopCallback, "on_train_start", on_train_start)
    more = ("growth=hyperclone_noisy", "optimizer.divide_grown_lr=true")
    run = grown(*more)
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    with pytest.raises(RuntimeError, match="seen"):
        grown(*more)
    assert groups[0] == groups[1]
    assert groups[0] == [pytest.approx(pair) for pair in ((0.005, 0.2), (0.01, 0.0))]  # every matrix grew


# What a growth writes for its run is there for as long as the run's start needs it


@pytest.fixture
def checkpoint(source):
    return source / "checkpoints" / "step-00000010"


def _left(run):
    return sorted(path.name for path in run.glob("*grown*")) + sorted(path.name for path in run.glob(".*grown*"))


def test_the_grown_model_goes_before_the_fit_and_its_state_with_the_fit_that_fails(
    grown, checkpoint, tmp_path, monkeypatch
):
    seen = []

    def fails(self, trainer, module):
        seen.append(_left(tmp_path / "grown"))
        raise RuntimeError("seen")

    monkeypatch.setattr(LoopCallback, "on_train_start", fails)
    with pytest.raises(RuntimeError, match="seen"):
        grown("growth=hyperclone_noisy", f"growth.source={checkpoint}", "growth.optimizer_state=exact")
    assert seen == [["grown_state"]]
    assert _left(tmp_path / "grown") == []


def test_a_start_that_fails_after_the_growth_leaves_nothing_of_it(grown, source, tmp_path):
    with pytest.raises(GrowthError, match="holds none"):
        grown("growth=hyperclone_noisy", "growth.optimizer_state=exact")  # of a model, which has no optimizer
    assert not (tmp_path / "grown").exists()


def test_what_a_killed_run_left_of_its_growth_is_removed_by_the_next_start(grown, checkpoint, tmp_path):
    def killed(*names):
        for name in names:
            (tmp_path / "grown" / name).mkdir(parents=True)
            (tmp_path / "grown" / name / "half.safetensors").write_text("torn")

    killed("grown", "grown_state")  # before its first step
    more = ("growth=hyperclone_noisy", f"growth.source={checkpoint}", "growth.optimizer_state=exact")
    run = grown(*more)
    assert _left(run) == []
    killed("grown_state")  # while it trained: it continues from its last checkpoint
    shutil.rmtree(run / "model")
    grown(*more)
    assert _left(run) == []


def test_a_grown_run_continues_without_its_source(grown, source, tmp_path):
    """The checkpoint has all that is needed of it; a hub may be out of reach of the nodes that a run continues on."""
    run = grown("growth=hyperclone_noisy")
    expected = (run / "model" / "model.safetensors").read_bytes()
    for directory in (run / "model", run / "checkpoints" / "step-00000010", source):
        shutil.rmtree(directory)
    grown("growth=hyperclone_noisy")
    assert (run / "model" / "model.safetensors").read_bytes() == expected


def test_only_the_first_rank_looks_for_the_source(tmp_path, shards, monkeypatch):
    """With a hub id every rank would download it."""
    asked = []
    monkeypatch.setattr(session, "find_source", lambda name: asked.append(name) or tmp_path)
    settings, run = DataSettings(name="shards", path=str(shards.path), sequence_length=16), RunDirectory(tmp_path)
    opened = session.open_shards(settings, "owner/model", run)
    monkeypatch.setattr(processes, "is_first", lambda: False)
    monkeypatch.setattr(processes, "from_first", lambda value: opened.path)
    assert session.open_shards(settings, "owner/model", run).path == opened.path
    assert asked == ["owner/model"]


def test_the_first_rank_grows_with_every_core_while_the_others_wait(tmp_path, monkeypatch):
    """torchrun sets OMP_NUM_THREADS=1, with which the proof of a model of billions takes many minutes."""
    threads = []

    def note(*_):
        threads.append(torch.get_num_threads())
        raise GrowthError("enough")

    monkeypatch.setattr(start, "grow", note)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    data = SimpleNamespace(val_dataloader=lambda: iter([torch.zeros(1, 2)]))
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        with pytest.raises(GrowthError, match="enough"):
            start._from_growth(None, None, "source", lambda: data, tmp_path / "state", RunDirectory(tmp_path), None)
    finally:
        dist.destroy_process_group()
    assert (threads, torch.get_num_threads()) == ([3], 1)
