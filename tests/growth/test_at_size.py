"""Growth of what does not fit: files in parallel, continued after a kill, proven a module at a time; the same bits."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grow.common.errors import CheckpointError
from grow.families.build import load_model
from grow.families.weights import weight_files
from grow.growth import run, tensor_writer
from grow.growth.run import grow
from grow.growth.settings import GrowthSettings, ScaleSettings
from grow.growth.streamed import streamed_model
from grow.growth.target import scaled_target
from tests.growth.cases import CONFIGS, PRESETS, make_source, some_tokens
from tests.growth.test_upcycled import mixture

SHARD = 40_000
NOISY = PRESETS["hyperclone_diagonal_noisy"]


def grown(source, output, growth=NOISY, **options):
    target = scaled_target(source.config, ScaleSettings())
    return grow(str(source.directory), output, growth, target, some_tokens(), max_shard_bytes=SHARD, **options)


def content(directory):
    """Every file's bytes, but for growth.json and the card, which name the source and what the proof measured."""
    records = ("growth.json", "README.md")
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name not in records}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A source in many files."""
    directory = tmp_path_factory.mktemp("size")
    made = make_source(CONFIGS["llama-gqa"], directory / "whole")
    made.model.save_pretrained(directory / "sharded", max_shard_size="20KB")
    assert len(weight_files(directory / "sharded")) > 5
    return type(made)(made.config, directory / "sharded", made.model)


@pytest.fixture(scope="module")
def quiet(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("quiet") / "grown"
    grown(source, output, workers=1)
    assert len(weight_files(output)) > 10
    return content(output)


@pytest.fixture
def stopped(source, tmp_path, monkeypatch):
    """(files): what a growth leaves that was stopped after so many files."""

    def after(files, **options):
        write, done = tensor_writer.write_file, []

        def stop(*arguments):
            if len(done) == files:
                raise KeyboardInterrupt
            done.append(arguments[0].name)
            return write(*arguments)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(tensor_writer, "write_file", stop)
            grown(source, tmp_path / "grown", workers=1, **options)
        assert not (tmp_path / "grown").exists()
        return tmp_path / ".grown.partial"

    return after


@pytest.mark.parametrize("workers", [2, 5])
def test_any_number_of_workers_writes_the_same_bits(source, quiet, tmp_path, workers):
    grown(source, tmp_path / "grown", workers=workers)
    assert content(tmp_path / "grown") == quiet


def test_threads_inside_an_operation_do_not_change_the_bits_and_are_as_before_afterwards(source, quiet, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        grown(source, tmp_path / "grown", workers=2)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert content(tmp_path / "grown") == quiet


def test_a_stopped_growth_keeps_its_finished_files_and_ends_with_the_same_bits(
    source, quiet, tmp_path, stopped, monkeypatch
):
    partial = stopped(4)
    finished = json.loads((partial / "progress.json").read_text())["files"]
    assert len(finished) == 4
    (partial / "model-00009-of-00099.safetensors").write_bytes(b"half")
    damaged, *kept = finished
    (partial / damaged).write_bytes((partial / damaged).read_bytes()[:-1] + b"\x7f")
    write, made = tensor_writer.write_file, []
    monkeypatch.setattr(tensor_writer, "write_file", lambda path, *more: made.append(path.name) or write(path, *more))
    record = grown(source, tmp_path / "grown", workers=2)
    assert damaged in made and not set(kept) & set(made)
    assert record.continued == "An earlier try was stopped after 4 of its weight files; those that are whole were kept."
    assert content(tmp_path / "grown") == quiet
    assert [path.name for path in tmp_path.iterdir()] == ["grown"]


def test_other_settings_start_anew_and_are_named(source, quiet, tmp_path, stopped):
    stopped(4, growth=GrowthSettings(name="test", share="diagonal", snr_db=10.0, seed=7))
    record = grown(source, tmp_path / "grown")
    assert "it made something else (growth.seed: 7 there, 0 here). All was made anew." in record.continued
    assert content(tmp_path / "grown") == quiet


def test_another_source_starts_anew_and_is_named(source, quiet, tmp_path, stopped):
    partial = stopped(4)
    progress = json.loads((partial / "progress.json").read_text())
    progress["recipe"]["the sources' weights"] = ["of another"]
    (partial / "progress.json").write_text(json.dumps(progress))
    assert "the sources' weights: ['of another'] there" in grown(source, tmp_path / "grown").continued
    assert content(tmp_path / "grown") == quiet


def test_a_growth_begun_under_sha256_keeps_its_finished_files(source, quiet, tmp_path, stopped, monkeypatch):
    partial = stopped(2)
    progress = json.loads((partial / "progress.json").read_text())
    assert all(digest.startswith("blake3:") for digest in progress["files"].values())
    progress["files"] = {name: hashlib.sha256((partial / name).read_bytes()).hexdigest() for name in progress["files"]}
    (partial / "progress.json").write_text(json.dumps(progress))
    write, made = tensor_writer.write_file, []
    monkeypatch.setattr(tensor_writer, "write_file", lambda path, *more: made.append(path.name) or write(path, *more))
    grown(source, tmp_path / "grown", workers=1)
    assert made and not set(progress["files"]) & set(made)
    assert content(tmp_path / "grown") == quiet


def test_a_source_that_changes_after_its_last_tensor_was_read_is_refused(source, tmp_path, monkeypatch):
    shutil.copytree(source.directory, tmp_path / "source")
    digest = run.digest_files

    def late(files):
        found = digest(files)
        os.utime(files[0], ns=(0, 0))
        return found

    monkeypatch.setattr(run, "digest_files", late)
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        grown(type(source)(source.config, tmp_path / "source", source.model), tmp_path / "grown", workers=1)


def test_one_process_at_a_time_makes_an_output(source, tmp_path, monkeypatch):
    write = tensor_writer.write_file

    def twice(*arguments):
        with pytest.raises(CheckpointError, match="another process is making it"):
            grown(source, tmp_path / "grown")
        monkeypatch.setattr(tensor_writer, "write_file", write)
        return write(*arguments)

    monkeypatch.setattr(tensor_writer, "write_file", twice)
    grown(source, tmp_path / "grown", workers=1)


def test_a_disk_that_fills_up_under_a_worker_is_one_clear_error(source, tmp_path, monkeypatch):
    write = tensor_writer.write_file

    def full(path, *arguments):
        if path.name.startswith("model-00003"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments)

    monkeypatch.setattr(tensor_writer, "write_file", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        grown(source, tmp_path / "grown", workers=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["opt", "opt-350m", "pythia-tied", "olmo-gqa", "olmo2-mha-tied", "llama-mqa", "mixtral"]
)
def test_a_streamed_model_computes_the_loaded_ones_logits_bit_by_bit_and_holds_no_weights(name, dtype, tmp_path):
    config = mixture() if name == "mixtral" else CONFIGS[name]
    make_source(config, tmp_path / "model", dtype=dtype)
    computed = torch.float64 if dtype == torch.float64 else torch.float32
    model = streamed_model(tmp_path / "model", computed)
    with torch.no_grad():
        expected = load_model(tmp_path / "model", computed).eval()(some_tokens()).logits
        assert torch.equal(model(some_tokens()).logits, expected)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_streamed_model_holds_one_modules_weights_at_a_time(source):
    others = []
    model = streamed_model(source.directory, torch.float64)

    def note(module, _):
        own = {id(parameter) for parameter in module.parameters(recurse=False)}
        others.extend(each for each in model.parameters() if not each.is_meta and id(each) not in own)

    holders = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    for module in holders:
        module.register_forward_pre_hook(note)
    model(some_tokens())
    assert len(holders) > 10 and not others


def test_a_source_that_lacks_a_tensor_is_named_before_it_computes(source, tmp_path):
    shutil.copytree(source.directory, tmp_path / "model")
    index = json.loads((source.directory / "model.safetensors.index.json").read_text())
    gone = index["weight_map"]["model.norm.weight"]
    for name, file in list(index["weight_map"].items()):
        if file == gone:
            del index["weight_map"][name]
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="is missing"):
        streamed_model(tmp_path / "model", torch.float64)


# Killed for good, at any moment. The processes are forked from one that has imported everything.

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from grow.families.build import load_config
from grow.growth.run import grow
from grow.growth.settings import GrowthSettings, ScaleSettings
from grow.growth.target import scaled_target

source, output = sys.argv[1], Path(sys.argv[2])

def make(directory):
    growth = GrowthSettings(name="test", share="diagonal", snr_db=10.0)
    grow(source, directory, growth, scaled_target(load_config(Path(source)), ScaleSettings()),
         max_shard_bytes=100_000, workers=2)

def start():
    child = os.fork()
    if child == 0:
        try:
            make(output / "killed")
        finally:
            os._exit(0)
    return child

def made():
    try:
        return sum(name.endswith(".safetensors") for name in os.listdir(partial))
    except FileNotFoundError:  # not begun, or renamed at the end
        return 0

make(output / "quiet")
draw, kills, partial = random.Random(0), 0, output / ".killed.partial"
for files in (1, 3, 3, 6, 9, 12, 99):
    child, status = start(), 0
    while made() < files and not status:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
    else:
        time.sleep(draw.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        kills += os.waitpid(child, 0)[1] == signal.SIGKILL
print(kills)
"""


@pytest.mark.slow
def test_a_growth_that_is_killed_again_and_again_ends_with_the_quiet_ones_bits(tmp_path):
    config = type(CONFIGS["llama-gqa"]).from_dict({**CONFIGS["llama-gqa"].to_dict(), "intermediate_size": 2048})
    make_source(config, tmp_path / "source", dtype=torch.float32)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "source"), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # forks after threads
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout.split()[-1]) >= 4
    assert content(tmp_path / "killed") == content(tmp_path / "quiet")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
