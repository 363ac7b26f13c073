"""Averages in a run of one process: totals resume to the bit, and a window goes through the run's growth."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from grow.common import metrics as names
from grow.common.errors import CheckpointError, ConfigError, GrowthError
from grow.common.provenance import read_json
from grow.config import compose
from grow.families.registry import stock_config
from grow.growth.run import grow
from grow.training.checkpoint import AVERAGE_FILES, STARTS, sha256
from grow.training.grown_window import grow_window
from tests.training.tiny import command_line

LAWA = ("averaging=lawa", "averaging.k=3", "averaging.every_steps=2", "averaging.start_tokens=0")
RUN = ("trainer.val_every_tokens=128", "checkpoint.keep_last=9")
TWICE = ("model.embed=32", "model.heads=4", "model.kv_heads=4", "model.ffn=48", "growth=hyperclone_noisy")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, shards_dir):
    """A run's checkpoint after 9 steps, with the snapshots of steps 4, 6 and 8."""
    import train as entry

    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("source") / "run"
    entry.main.__wrapped__(compose(command_line(shards_dir, run, *LAWA, *RUN)))
    return run / "checkpoints" / "step-00000009"


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


def test_a_grown_run_starts_with_an_empty_window_unless_told_otherwise(train, tmp_path, checkpoint, rows):
    run = train(tmp_path / "run", *TWICE, *LAWA, *RUN, f"growth.source={checkpoint}")
    assert [row["step"] for row in rows(run) if names.VAL_AVG_LOSS in row] == [6, 7, 8, 9, 10]


def test_a_window_in_pieces_grows_to_the_same_bits_as_a_whole_one(tmp_path, checkpoint):
    """The layout of two ZeRO ranks, cut where no parameter ends."""
    pieces = shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    (file,) = pieces.glob(AVERAGE_FILES)
    whole = load_file(file)
    file.unlink()
    for rank in range(2):
        parts, starts = {}, {}
        for key, tensor in whole.items():
            cut = tensor.numel() // 3
            parts[key] = (tensor[cut:] if rank else tensor[:cut]).clone()
            starts[key.partition("/")[2]] = cut * rank
        save_file(parts, pieces / f"average-{rank:05}-of-00002.safetensors", metadata={STARTS: json.dumps(starts)})
    digests = {file.name: sha256(file) for file in pieces.iterdir() if file.name != "COMPLETE.json"}
    (pieces / "COMPLETE.json").write_text(json.dumps(digests))
    settings = compose(command_line(tmp_path, tmp_path, *TWICE, f"growth.source={checkpoint}"))
    target = stock_config(settings.model)
    record = grow(str(checkpoint), tmp_path / "grown", settings.growth, target)
    states, shards = [], []
    for source in (checkpoint, pieces):
        states.append(grow_window(source, tmp_path / "grown", record))
        shards.append(load_file(tmp_path / "grown" / "average-grown-00000.safetensors"))
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
