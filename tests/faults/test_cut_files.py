"""Weight files that change while they are read: every reader notices, says so, and leaves nothing behind."""

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from grow.averaging import offline
from grow.averaging.offline import average_checkpoints
from grow.averaging.settings import AveragingSettings
from grow.averaging.sources import find_sources
from grow.common.errors import CheckpointError
from grow.families import build, tensor_file
from grow.families.state_dict_file import StateDictReader
from grow.families.weights import SINGLE_FILE, WeightReader
from grow.growth.run import grow
from grow.growth.settings import GrowthSettings, ScaleSettings
from grow.growth.streamed import streamed_model
from grow.growth.target import scaled_target
from grow.training.checkpoints.checkpoint_reader import OPTIMIZER_FILES, Checkpoint, SavedFragments
from tests.faults.conftest import CONFIG


def cut(path):
    os.truncate(path, path.stat().st_size - 20)


def cut_to_nothing(path):
    os.truncate(path, 0)


def lengthen(path):
    with path.open("ab") as file:
        file.write(bytes(8))


def overwrite(path):
    """Other bytes, the same size, a later time."""
    content = path.read_bytes()
    before = path.stat().st_mtime_ns
    path.write_bytes(content[:-8] + bytes(8))
    os.utime(path, ns=(before + 10**9, before + 10**9))


CHANGES = {
    "cut": cut,
    "cut to nothing": cut_to_nothing,
    "longer": lengthen,
    "overwritten": overwrite,
    "gone": os.unlink,
}
SAID = "was changed while it was read|was removed before it was read"


def safetensors(tmp_path):
    path = tmp_path / SINGLE_FILE
    save_file({"a": torch.randn(50), "w": torch.randn(40, 30)}, path)
    reader = WeightReader(tmp_path)
    return path, lambda: reader.read("w")


def state_dict(tmp_path):
    path = tmp_path / "step_1.pt"
    torch.save({"a": torch.randn(50), "w": torch.randn(40, 30)}, path)
    reader = StateDictReader(path)
    return path, lambda: reader.read_flat("w", slice(0, 1200))


def moments(tmp_path):
    path = tmp_path / "optimizer-00000-of-00001.safetensors"
    save_file({"w/exp_avg": torch.randn(1200)}, path, metadata={"starts": '{"w": 0}'})
    saved = SavedFragments(tmp_path, OPTIMIZER_FILES)
    return path, lambda: saved.whole("w/exp_avg")


READERS = {"safetensors": safetensors, "state dict": state_dict, "moments": moments}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", READERS)
def test_a_file_that_changed_after_it_was_opened_is_not_read_as_if_it_had_not(tmp_path, kind, change):
    path, read = READERS[kind](tmp_path)
    read()
    CHANGES[change](path)
    with pytest.raises(CheckpointError, match=SAID):
        read()


@pytest.fixture
def changes_while_read(monkeypatch):
    """Change a file after a number of reads, wherever in the tree they are."""
    real = tensor_file.read_elements

    def arrange(path, change, after):
        calls = []

        def read(*arguments):
            calls.append(arguments)
            if len(calls) == after:
                change(path)
            return real(*arguments)

        monkeypatch.setattr(tensor_file, "read_elements", read)

    return arrange


def grown(source, tmp_path):
    target = scaled_target(CONFIG, ScaleSettings())
    return grow(str(source), tmp_path / "out" / "grown", GrowthSettings(name="g", share="symmetric"), target)


def averaged(source, tmp_path):
    other = shutil.copytree(source, tmp_path / "other")
    how = AveragingSettings(name="lawa", kind="lawa", k=2)
    return average_checkpoints([str(source), str(other)], how, tmp_path / "out" / "average")


def logits(source, tmp_path):
    return streamed_model(source, torch.float32)(torch.zeros(1, 3, dtype=torch.long)).logits


WORK = {
    "growth": grown,
    "average": averaged,
    "load": lambda source, tmp_path: build.load_model(source),
    "logits": logits,
}


@pytest.mark.parametrize("after", [1, 3, 8])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("work", WORK)
def test_work_on_a_file_that_is_changed_meanwhile_ends_in_a_sentence(
    source, tmp_path, changes_while_read, work, change, after
):
    changes_while_read(source / SINGLE_FILE, CHANGES[change], after)
    with pytest.raises(CheckpointError, match=SAID):
        WORK[work](source, tmp_path)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_an_average_of_a_file_that_is_cut_meanwhile_is_never_one_of_uninitialized_memory(
    source, tmp_path, changes_while_read
):
    """The last tensors of the file are gone; what is still there is read right."""
    reader, expected = WeightReader(source), load_file(source / SINGLE_FILE)
    os.truncate(source / SINGLE_FILE, (source / SINGLE_FILE).stat().st_size - 4)
    for name in expected:
        with pytest.raises(CheckpointError, match="was changed while it was read"):
            reader.read(name)


RETIRED = {"before its weights are opened": "weights", "before it is digested": "digest", "before it is copied": "copy"}


@pytest.mark.parametrize("moment", RETIRED)
def test_a_checkpoint_that_a_live_run_retires_meanwhile_ends_in_a_sentence(source, tmp_path, monkeypatch, moment):
    real = {"weights": offline.find_sources, "digest": offline.digest_files, "copy": offline.copy_model_files}
    names = {"weights": "find_sources", "digest": "digest_files", "copy": "copy_model_files"}

    def retire(*arguments):
        if RETIRED[moment] == "weights":
            sources = real["weights"](*arguments)
            shutil.rmtree(source)
            return sources
        for directory in (source, tmp_path / "other"):
            shutil.rmtree(directory, ignore_errors=True)
        return real[RETIRED[moment]](*arguments)

    monkeypatch.setattr(offline, names[RETIRED[moment]], retire)
    with pytest.raises(CheckpointError):
        averaged(source, tmp_path)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_run_whose_checkpoint_is_retired_while_its_checkpoints_are_opened_is_a_sentence(
    source, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    for step in (1, 2):
        directory = shutil.copytree(source, run / "checkpoints" / f"step-{step:08}")
        (directory / "COMPLETE.json").write_text("{}")
    (run / "run.json").write_text("{}")
    real = tensor_file.TensorFile.__init__

    def retire(self, path):
        shutil.rmtree(run / "checkpoints" / "step-00000001", ignore_errors=True)
        real(self, path)

    monkeypatch.setattr(tensor_file.TensorFile, "__init__", retire)
    with pytest.raises(CheckpointError, match="was removed before it was read"):
        find_sources([str(run)])


@pytest.mark.parametrize("change", ["cut", "cut to nothing", "longer", "gone"])
def test_a_damaged_file_of_random_states_is_a_sentence(tmp_path, change):
    save_file({"0.cpu": torch.get_rng_state()}, tmp_path / "rng.safetensors")
    CHANGES[change](tmp_path / "rng.safetensors")
    with pytest.raises(CheckpointError):
        Checkpoint(tmp_path).restore_rng(0)


def test_a_file_that_cannot_be_read_is_a_sentence_with_the_systems_reason(tmp_path, monkeypatch):
    path, read = safetensors(tmp_path)

    def fail(*arguments, **options):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(type(path), "open", fail)
    with pytest.raises(CheckpointError, match="cannot be read \\(Input/output error\\)"):
        read()


def test_nothing_in_the_tree_maps_weights_into_memory_or_unpickles_them_whole():
    """A file that is cut while it is mapped kills the process; only `state_dict_file` unpickles, and without data."""
    from tests.faults.test_hostile_checkpoints import ROOT

    forbidden = ("safe_open(", "load_file(", "mmap=True", "from_file(")
    named = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in (ROOT / "grow").rglob("*.py")
        for word in forbidden
        if word in path.read_text()
    ]
    assert not named
