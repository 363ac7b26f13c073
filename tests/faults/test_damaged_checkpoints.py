"""Damaged checkpoints: nothing starts from noise over them, nothing is lost, and every fault is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from grow.analysis.analyze_run import checkpoints as analyzed
from grow.averaging.sources import find_sources
from grow.common.digests import file_digest
from grow.common.errors import CheckpointError, ConfigError
from grow.common.provenance import sha256
from grow.training.checkpoints.checkpoint_reader import newest_checkpoint, require_complete
from tests.training.tiny import in_process, make_shards

# Checkpoints at steps 3, 6 (permanent), 9 and 10
RUN = ("checkpoint.keep_last=9", "checkpoint.permanent_every_tokens=768")


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """(run_dir, *more) -> the run directory, after train.py's task ran in this process."""
    run = in_process(make_shards(tmp_path_factory.mktemp("shards")))
    return lambda run_dir, *more: run(run_dir, *RUN, *more)


@pytest.fixture(scope="module")
def quiet(train, tmp_path_factory):
    """A finished run that nobody disturbs."""
    return train(tmp_path_factory.mktemp("quiet") / "run")


@pytest.fixture
def run(quiet, tmp_path):
    """A copy of it that has not exported its model, to be damaged."""
    copy = shutil.copytree(quiet, tmp_path / "run")
    shutil.rmtree(copy / "model")
    return copy


def saved(run):
    return sorted((run / "checkpoints").glob("step-????????"))


def content(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def assert_same_weights(first, second):
    assert all(torch.equal(weights(first)[name], weights(second)[name]) for name in weights(second))


def flip(path):
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def replace_by_directory(path):
    path.unlink()
    path.mkdir()


def replace_by_dangling_link(path):
    path.unlink()
    path.symlink_to("nowhere")


FILES = ("config.json", "model.safetensors", "optimizer-00000-of-00001.safetensors", "rng.safetensors", "state.json")
DAMAGES = (flip, cut, empty, Path.unlink, replace_by_directory, replace_by_dangling_link)
OF_COMPLETE = {
    "no digests": Path.unlink,
    "empty": empty,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a list": lambda path: path.write_text("[]"),
    "no files": lambda path: path.write_text("{}"),
    "a number": lambda path: path.write_text("1"),
    "numbers for digests": lambda path: path.write_text(json.dumps(dict.fromkeys(FILES, 1))),
    "a file outside": lambda path: path.write_text(json.dumps({"../x": "0", **json.loads(path.read_text())})),
    "other digests": lambda path: path.write_text(json.dumps(dict.fromkeys(FILES, "0" * 64))),
}
OTHER_INDEX = '{"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}'
FOREIGN = {
    "a tokenizer": lambda step: (step / "tokenizer.json").write_text("{}"),
    "a notebook's directory": lambda step: (step / ".ipynb_checkpoints").mkdir(),
    "an editor's copy": lambda step: (step / "state.json~").write_text("{}"),
    "a shard too many": lambda step: (step / "optimizer-00001-of-00002.safetensors").write_bytes(b"x"),
    "a window too many": lambda step: (step / "average-00000-of-00001.safetensors").write_bytes(b"x"),
    "a dangling link": lambda step: (step / "notes").symlink_to("nowhere"),
    "an index of another model": lambda step: (step / "model.safetensors.index.json").write_text(OTHER_INDEX),
    "an adapter": lambda step: (step / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere"}'),
    "an unfinished download": lambda step: (step / "model.safetensors.part").write_bytes(b"x"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(run, file, damage):
    damage(saved(run)[-1] / file)
    checkpoint, skipped = newest_checkpoint(run / "checkpoints")
    assert checkpoint.path.name == "step-00000009"
    assert len(skipped) == 1 and f"step-00000010: {file} " in skipped[0]


@pytest.mark.parametrize("damage", OF_COMPLETE.values(), ids=OF_COMPLETE)
def test_damaged_digests_make_a_checkpoint_incomplete(run, damage):
    damage(saved(run)[-1] / "COMPLETE.json")
    checkpoint, skipped = newest_checkpoint(run / "checkpoints")
    assert checkpoint.path.name == "step-00000009"
    assert len(skipped) == 1 and "step-00000010" in skipped[0]


@pytest.mark.parametrize("put", FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_is_not_the_checkpoints_own_is_named_once_and_left_alone(train, run, quiet, capsys, put):
    shutil.rmtree(saved(run)[-1])
    for step in saved(run):
        put(step)
    before = {step: sorted(path.name for path in step.iterdir()) for step in saved(run)}
    train(run)
    (name,) = set(before[saved(run)[0]]) - {path.name for path in (quiet / "checkpoints" / "step-00000003").iterdir()}
    printed = capsys.readouterr().out
    assert printed.count(f"left alone: {name}.") == 1 and "step-00000009" in printed
    assert {step: sorted(path.name for path in step.iterdir()) for step in before} == before
    assert_same_weights(run, quiet)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer-00000-of-00001.safetensors", "state.json"])
def test_where_no_checkpoint_is_whole_the_run_ends_and_nothing_is_touched(train, run, file):
    for step in saved(run):
        flip(step / file)
    before = content(run)
    with pytest.raises(CheckpointError) as caught:
        train(run)
    message = str(caught.value)
    for step in saved(run):
        assert f"{step}: {file} is not what was written (its BLAKE3 is {file_digest(step / file)[7:19]}" in message
    assert "resume=fresh" in message and caught.value.exit_code == 77
    after = content(run)
    assert {path: after[path] for path in before if path.name != ".lock"} == {
        path: before[path] for path in before if path.name != ".lock"
    }


def test_fresh_moves_the_old_run_aside_whole_and_starts_anew(train, run, quiet, capsys):
    for step in saved(run):
        flip(step / "model.safetensors")
    before = content(run)
    train(run, "resume=fresh")
    (aside,) = run.parent.glob("run.before-*")
    assert str(aside) in capsys.readouterr().out
    moved = content(aside)
    assert {path: moved[path] for path in before if path.name != ".lock"} == {
        path: before[path] for path in before if path.name != ".lock"
    }
    assert_same_weights(run, quiet)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == len(
        (quiet / "metrics.jsonl").read_text().splitlines()
    )


def test_fresh_takes_another_configuration_and_a_finished_run_too(train, quiet, tmp_path):
    run = shutil.copytree(quiet, tmp_path / "run")
    train(run, "resume=fresh", "seed=1")
    (aside,) = tmp_path.glob("run.before-*")
    assert_same_weights(aside, quiet)
    assert not torch.equal(weights(run)["lm_head.weight"], weights(quiet)["lm_head.weight"])


def test_fresh_behind_a_link_moves_what_the_link_leads_to(train, run, tmp_path):
    (tmp_path / "disk").mkdir()
    real = run.rename(tmp_path / "disk" / "real")
    run.symlink_to(real)
    train(run, "resume=fresh")
    assert run.is_symlink() and (real / "model").is_dir()
    assert len(list((tmp_path / "disk").glob("real.before-*"))) == 1


def test_fresh_leaves_a_directory_that_is_no_run_where_it_is(train, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    train(tmp_path / "home", "resume=fresh")
    assert (tmp_path / "home" / "thesis.tex").exists() and not list(tmp_path.glob("home.before-*"))


@pytest.mark.parametrize("name", ["SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"])
def test_a_job_that_the_system_starts_again_continues_what_it_began_afresh(train, run, monkeypatch, capsys, name):
    monkeypatch.setenv(name, "1")
    train(run, "resume=fresh")
    assert not list(run.parent.glob("run.before-*"))
    assert "resume=fresh holds for a job's first start" in capsys.readouterr().out


def test_another_word_for_resume_is_refused(train, run):
    with pytest.raises(ConfigError, match="expected one of exact, changed, fresh"):
        train(run, "resume=anew")


def test_a_damaged_permanent_checkpoint_is_moved_aside_when_the_run_passes_it(train, run, quiet, capsys):
    for step in saved(run)[1:]:
        flip(step / "model.safetensors")
    damaged = content(run / "checkpoints" / "step-00000006")
    train(run)
    (aside,) = (run / "checkpoints").glob("step-00000006.before-*")
    assert content(aside) == damaged
    assert f"is now {aside}" in capsys.readouterr().out
    assert require_complete(run / "checkpoints" / "step-00000006").state.kind == "permanent"
    assert_same_weights(run, quiet)


def test_a_whole_permanent_checkpoint_stays_where_the_run_reaches_its_step_again_with_equal_bits(train, run, quiet):
    kept, hidden = run / "checkpoints" / "step-00000006", run.parent / "hidden"
    for step in saved(run)[2:]:
        shutil.rmtree(step)
    before, inode = content(kept), kept.stat().st_ino
    from grow.training.checkpoints import checkpoint_reader

    original = checkpoint_reader.difference  # as on a network disk that fails for a moment
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            checkpoint_reader, "difference", lambda path, **how: "it failed" if path == kept else original(path, **how)
        )
        train(run)
    assert (content(kept), kept.stat().st_ino) == (before, inode)
    assert not list(kept.parent.glob("*.before-*")) and not list(kept.parent.glob(".step*")) and not hidden.exists()
    assert_same_weights(run, quiet)


UNREADABLE = {
    "a damaged state": lambda step: empty(step / "state.json"),
    "the state of another version": lambda step: (step / "state.json").write_text('{"format": 99}'),
    "damaged digests": lambda step: empty(step / "COMPLETE.json"),
    "a link to another disk": lambda step: step.symlink_to(step.rename(step.parents[1] / "disk")),
}


@pytest.mark.parametrize("damage", UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_is_not_retired(train, run, damage):
    for step in saved(run)[2:]:
        shutil.rmtree(step)
    shutil.copytree(saved(run)[0], run / "checkpoints" / "step-00000002")
    damage(run / "checkpoints" / "step-00000002")
    names = sorted(path.name for path in (run / "checkpoints" / "step-00000002").iterdir())
    train(run, "checkpoint.keep_last=1")
    assert sorted(path.name for path in (run / "checkpoints" / "step-00000002").iterdir()) == names
    assert [step.name for step in saved(run)] == ["step-00000002", "step-00000006", "step-00000010"]


@pytest.mark.parametrize(
    "name", ["step-00000005-mybackup", "step-00000005.before-20260101-000000", "step-5", "step-000000005", "step-best"]
)
def test_a_directory_of_the_users_own_is_neither_retired_nor_listed(train, run, name):
    for step in saved(run)[2:]:
        shutil.rmtree(step)
    own = shutil.copytree(saved(run)[0], run / "checkpoints" / name)
    before = content(own)
    train(run, "checkpoint.keep_last=1")
    assert content(own) == before
    assert [step.name for step in saved(run)] == ["step-00000006", "step-00000010"]
    assert [source.step for source in find_sources([str(run)])] == [6, 10]
    assert [path.name for path, _ in analyzed(run)] == ["step-00000006", "step-00000010", "model"]


def test_what_the_user_put_into_a_retired_checkpoint_stays(train, run):
    for step in saved(run)[2:]:
        shutil.rmtree(step)
    (run / "checkpoints" / "step-00000003" / "notes.txt").write_text("mine")
    train(run, "checkpoint.keep_last=1")
    assert list(content(run / "checkpoints" / "step-00000003")) == [Path("notes.txt")]


STATES = {
    "a field more": lambda state: state | {"colour": "red"},
    "a field less": lambda state: {name: value for name, value in state.items() if name != "flops"},
    "a newer format": lambda state: state | {"format": 99},
    "a format that is no number": lambda state: state | {"format": "two"},
    "a step that is no number": lambda state: state | {"step": "10"},
    "a truth for a number": lambda state: state | {"tokens": True},
    "null for a number": lambda state: state | {"metrics_bytes": None},
    "a list for an object": lambda state: state | {"input_copies": []},
    "an object for a list": lambda state: state | {"updates_of_groups": {}},
    "a list": lambda state: [state],
    "text": lambda state: "state",
    "null": lambda state: None,
}


@pytest.mark.parametrize("change", STATES.values(), ids=STATES)
def test_a_checkpoint_of_another_version_is_one_sentence_and_no_older_one_is_taken_in_its_place(train, run, change):
    newest = saved(run)[-1]
    state = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps(change(state)))
    digests = json.loads((newest / "COMPLETE.json").read_text())
    (newest / "COMPLETE.json").write_text(json.dumps(digests | {"state.json": sha256(newest / "state.json")}))
    with pytest.raises(CheckpointError, match=r"step-00000010/state\.json: expected") as caught:
        train(run)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 77


FORMATS = Path(__file__).parents[1] / "training" / "formats"


@pytest.mark.parametrize("number", sorted(path.name for path in FORMATS.iterdir() if path.name.isdigit()))
def test_a_checkpoint_of_every_released_format_is_continued(train, tmp_path, number):
    from tests.training.formats.make import RUN as KEPT
    from tests.training.formats.make import STEP

    assert sum(path.stat().st_size for path in (FORMATS / number).rglob("*") if path.is_file()) < 100_000
    whole = train(tmp_path / "whole", *KEPT)
    run = shutil.copytree(FORMATS / number, tmp_path / "run")
    for name in ("run.json", "metrics.jsonl"):
        shutil.copy((whole if name == "run.json" else FORMATS / number) / name, run / name)
    train(run, *KEPT)
    assert [step.name for step in saved(run)] == [f"step-{step:08}" for step in (STEP, 9, 10)]
    for folder in ("model", "average"):
        first, second = (load_file(each / folder / "model.safetensors") for each in (run, whole))
        for name in second:
            torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5, msg=name)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [
        json.loads(line)["step"] for line in (whole / "metrics.jsonl").read_text().splitlines()
    ]


def test_the_current_format_is_kept_too():
    from grow.training.checkpoints.run_state import FORMAT

    numbers = {int(path.name) for path in FORMATS.iterdir() if path.name.isdigit()}
    assert numbers == set(range(1, FORMAT + 1))
    for number in numbers - {1}:
        (state,) = (FORMATS / str(number)).rglob("state.json")
        assert json.loads(state.read_text())["format"] == number
