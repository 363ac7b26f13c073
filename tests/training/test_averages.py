"""Averages in a run of one process: what is kept and continued, and a window that goes through the run's growth."""

import math
import shutil

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from grow.averaging.average import new_average
from grow.averaging.cadence import resolve
from grow.averaging.settings import AveragingSettings
from grow.averaging.swap import averaged
from grow.cli.config import compose
from grow.common import metric_names as names
from grow.common.errors import CheckpointError, ConfigError, GrowthError
from grow.common.records import read_json
from grow.distributed.ranks import Ranks
from grow.families.registry import stock_config
from grow.growth.run import grow
from grow.training.checkpoints.checkpoint_reader import AVERAGE_FILES, Checkpoint, SavedFragments, newest_checkpoint
from grow.training.checkpoints.checkpoint_writer import CheckpointWriter
from grow.training.checkpoints.grown_window import grow_window
from grow.training.checkpoints.run_average import RunAverage
from grow.training.step.module import PretrainModule
from tests.training.tiny import command_line, cut_in_two

LAWA = ("averaging=lawa", "averaging.k=3", "averaging.every_steps=2", "averaging.start_tokens=0")
RUN = ("trainer.val_every_tokens=128", "checkpoint.keep_last=9")
TWICE = ("model.embed=32", "model.heads=4", "model.kv_heads=4", "model.ffn=48", "growth=hyperclone_noisy")


@pytest.fixture(scope="module")
def checkpoint(trained_once):
    """A run's checkpoint after 9 steps, with the snapshots of steps 4, 6 and 8."""
    return trained_once(*LAWA, *RUN) / "checkpoints" / "step-00000009"


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_a_running_average_is_saved_with_all_its_bits(train, tmp_path, kind):
    """Its total is float64; rounded to float32 on the way, the average would end elsewhere."""
    spaced = ("averaging.every_steps=1", "averaging.start_tokens=0", *(["averaging.k=9"] if kind == "ema" else []))
    line = (f"averaging={kind}", *spaced, "checkpoint.keep_last=9")
    run = train(tmp_path / "run", *line)
    quiet = load_file(run / "average" / "model.safetensors")
    shutil.rmtree(run / "model")
    for path in sorted((run / "checkpoints").iterdir())[2:]:
        shutil.rmtree(path)
    again = load_file(train(run, *line) / "average" / "model.safetensors")
    assert [name for name in quiet if not torch.equal(quiet[name], again[name])] == []


def test_a_grown_runs_mapped_window_starts_with_its_sources_average_and_slides_on(train, tmp_path, checkpoint, rows):
    run = train(tmp_path / "run", *TWICE, *LAWA, *RUN, f"growth.source={checkpoint}", "averaging.on_growth=map")
    there = next(row for row in rows(checkpoint.parents[1]) if row["step"] == 9 and names.VAL_LOSS in row)
    first = rows(run)[0]
    assert first[names.VAL_AVG_LOSS] == pytest.approx(there[names.VAL_AVG_LOSS], abs=1e-4)
    assert abs(first[names.VAL_AVG_LOSS] - first[names.VAL_LOSS]) > 1e-3
    state = read_json(run / "checkpoints" / "step-00000003" / "state.json")["average"]
    assert state["steps"] == [-3, -1, 2]  # of 4, 6 and 8 steps of the source, whose 9th is the growth
    assert not (run / "grown").exists()

    losses = [row[names.VAL_AVG_LOSS] for row in rows(run) if names.VAL_AVG_LOSS in row]
    shutil.rmtree(run / "model")
    for step in (6, 9, 10):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08}")
    train(run, *TWICE, *LAWA, *RUN, f"growth.source={checkpoint}", "averaging.on_growth=map")
    assert [row[names.VAL_AVG_LOSS] for row in rows(run) if names.VAL_AVG_LOSS in row] == losses


def test_between_two_snapshots_the_average_stays_while_the_weights_go_on(checkpoint, rows):
    by_step = {row["step"]: row for row in rows(checkpoint.parents[1]) if names.VAL_LOSS in row}
    averaged = {step: row[names.VAL_AVG_LOSS] for step, row in by_step.items() if names.VAL_AVG_LOSS in row}
    assert list(averaged) == [6, 7, 8, 9, 10]
    assert averaged[6] == averaged[7] != averaged[8] == averaged[9] != averaged[10]
    assert by_step[6][names.VAL_LOSS] != by_step[7][names.VAL_LOSS]


def test_a_step_that_is_skipped_is_a_step_and_its_snapshot_the_weights_it_left(train, tmp_path, monkeypatch):
    """So that snapshots stay where checkpoints of the same period are, whatever was skipped between them."""
    original = PretrainModule._training_loss

    def loss(self, batch):
        return original(self, batch) * (math.nan if self.training and self.clock.step + 1 == 4 else 1)

    monkeypatch.setattr(PretrainModule, "_training_loss", loss)
    every = ("averaging.every_steps=1", "checkpoint.every_tokens=128", "trainer.log_every_steps=1")
    run = train(tmp_path / "run", *LAWA, *RUN, *every)
    state = read_json(run / "checkpoints" / "step-00000005" / "state.json")
    assert state["skipped"] == 1 and state["average"]["steps"] == [3, 4, 5]
    window = SavedFragments(run / "checkpoints" / "step-00000005", AVERAGE_FILES)
    before, left, after = (window.whole(f"snapshot-{step}/model.norm.weight") for step in (3, 4, 5))
    assert torch.equal(before, left) and not torch.equal(left, after)


def test_a_run_without_an_average_keeps_nothing_of_it_and_one_that_begins_late_starts_empty(train, tmp_path, rows):
    run = train(tmp_path / "run", *RUN)
    newest = run / "checkpoints" / "step-00000009"
    assert not list(run.rglob(AVERAGE_FILES)) and not (run / "average").exists() and not (run / "window").exists()
    assert Checkpoint(newest).state.average is None
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    late = ("averaging=lawa", "averaging.k=2", "averaging.every_steps=1", "averaging.min_snapshots=1")
    train(run, *RUN, *late, "resume=changed")
    assert [row["step"] for row in rows(run) if names.VAL_AVG_LOSS in row] == [10]
    live, mean = (load_file(run / name / "model.safetensors") for name in ("model", "average"))
    assert all(torch.equal(live[name], mean[name]) for name in live)  # of one snapshot, the last step's


def test_a_checkpoint_whose_window_is_damaged_is_not_continued_from(tmp_path, checkpoint):
    shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    (file,) = (tmp_path / checkpoint.name).glob(AVERAGE_FILES)
    assert newest_checkpoint(tmp_path)[0] is not None
    file.write_bytes(file.read_bytes()[:-4] + b"oops")
    found, skipped = newest_checkpoint(tmp_path)
    assert found is None and file.name in skipped[0]


def test_a_checkpoint_is_never_taken_of_averaged_weights(tmp_path):
    model = torch.nn.Linear(2, 2)
    mean = {name: torch.zeros_like(tensor) for name, tensor in model.named_parameters()}
    facts = {
        "ranks": Ranks(),
        "keep_last": 1,
        "keep_windows": False,
        "background": False,
        "timeout_s": 1.0,
        "sequence_length": 1,
    }
    writer = CheckpointWriter(directory=tmp_path, input_copies={}, **facts)
    with averaged(dict(model.named_parameters()), mean), pytest.raises(ValueError, match="averaged weights"):
        writer.save("rolling", model, None, None, metrics_bytes=0, skipped=0, average=None)
    assert not list(tmp_path.iterdir())


def test_a_rank_sends_nothing_to_take_a_snapshot_or_to_average_and_only_then_something(tmp_path, monkeypatch):
    sent = []
    for name in ("all_reduce", "all_gather", "all_gather_object", "broadcast", "barrier", "reduce", "all_to_all"):
        monkeypatch.setattr(dist, name, lambda *_, name=name, **__: sent.append(name))
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = torch.nn.Linear(3, 2)
        settings = AveragingSettings(name="lawa", kind="lawa", k=2, every_steps=1)
        plan = resolve(settings, total_steps=10, tokens_per_step=1, warmup_tokens=0)
        average = RunAverage(new_average(plan), model, torch.optim.AdamW(model.parameters()))
        for step in (1, 2, 3):
            if average.due(step):
                average.push(step)
        average.average.mean()
        assert sent == []
        average.full()
        assert sent == ["all_reduce"] * 2  # one a parameter
    finally:
        dist.destroy_process_group()


def test_a_grown_run_starts_with_an_empty_window_unless_told_otherwise(train, tmp_path, checkpoint, rows):
    run = train(tmp_path / "run", *TWICE, *LAWA, *RUN, f"growth.source={checkpoint}")
    assert [row["step"] for row in rows(run) if names.VAL_AVG_LOSS in row] == [6, 7, 8, 9, 10]


def test_a_window_in_pieces_grows_to_the_same_bits_as_a_whole_one(tmp_path, checkpoint):
    pieces = shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    cut_in_two(pieces, AVERAGE_FILES)
    settings = compose(command_line(tmp_path, tmp_path, *TWICE, f"growth.source={checkpoint}"))
    target = stock_config(settings.model)
    record = grow(str(checkpoint), tmp_path / "grown", settings.growth, target)
    states, shards = [], []
    for source in (checkpoint, pieces):
        states.append(grow_window(source, tmp_path / "grown", record, tmp_path / "window"))
        shards.append(load_file(tmp_path / "window" / "average-grown-00000.safetensors"))
    assert states[0] == states[1] and states[0]["steps"] == [-5, -3, -1]
    assert shards[0].keys() == shards[1].keys()
    assert all(torch.equal(shards[0][key], shards[1][key]) for key in shards[0])


def test_a_window_that_is_not_there_is_refused_by_name(train, tmp_path, checkpoint):
    mapped = (*TWICE, *LAWA, "averaging.on_growth=map")
    with pytest.raises(GrowthError, match=r"on_growth=map needs .*/model holds none"):
        train(tmp_path / "run", *mapped, f"growth.source={checkpoint.parents[1]}")
    with pytest.raises(CheckpointError, match=r"kind=wsm, found one of lawa"):
        train(tmp_path / "run", *mapped, f"growth.source={checkpoint}", "averaging=wsm", "averaging.k=3")
    with pytest.raises(ConfigError, match=r"on_growth=map: growth=none grows no window"):
        train(tmp_path / "run", *LAWA, "averaging.on_growth=map")
    with pytest.raises(ConfigError, match=r"on_growth=map: averaging\.kind=ema has no window"):
        train(tmp_path / "run", *TWICE, "averaging=ema", "averaging.on_growth=map", f"growth.source={checkpoint}")
