"""Temporary files and directories: random names, no link followed, nothing of another job removed, the umask kept."""

import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from grow.common.errors import CheckpointError
from grow.common.files import continued_directory, new_directory
from grow.common.provenance import write_json
from grow.common.rows import write_rows
from grow.common.temporary import MARKER
from grow.growth.ledger import open_ledger
from grow.loggers.csv_file import CsvView
from grow.training.start import _temporary

PROGRESS = "progress.json"


def fresh(output):
    return new_directory(output, 0)


def continued(output):
    return continued_directory(output, 0, PROGRESS)


@contextmanager
def killed():
    """What a SIGKILL leaves: the block ends, and nothing that would clean up after it may run."""
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *arguments, **options: None)
        yield


def make(directory, output, content="ours"):
    with directory(output) as partial:
        (partial / "file").write_text(content)


def content(directory):
    return {path.name: path.read_text() for path in directory.iterdir() if path.is_file()}


@pytest.fixture
def precious(tmp_path):
    directory = tmp_path / "another" / "job"
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_text("precious")
    return directory


def csv(path):
    view = CsvView(path)
    view.start({})
    view.close({}, failed=False)


WRITERS = [lambda path: write_json(path, {}), lambda path: write_rows(path, [{}]), csv]


@pytest.mark.parametrize("left", ["link", "dangling link", "file", "foreign directory", "link with our files"])
def test_a_growth_refuses_what_it_did_not_make_where_its_unfinished_output_would_lie(tmp_path, precious, left):
    partial = tmp_path / ".grown.partial"
    if left == "file":
        partial.write_text("precious")
    elif left == "foreign directory":
        partial.mkdir()
        (partial / "notes.txt").write_text("precious")
    else:
        partial.symlink_to(precious if "dangling" not in left else tmp_path / "nowhere")
    if left == "link with our files":
        (precious / PROGRESS).write_text('{"recipe": {}, "files": {}}')
    before = content(precious)
    with pytest.raises(CheckpointError, match="expected what an earlier try"), continued(tmp_path / "grown") as found:
        open_ledger(found, {})
    assert content(precious) == before
    assert os.path.lexists(partial) and not (tmp_path / "grown").exists()
    assert left != "foreign directory" or content(partial) == {"notes.txt": "precious"}


@pytest.mark.parametrize("sign", [PROGRESS, None])
def test_a_growth_continues_what_an_earlier_try_or_an_earlier_version_left(tmp_path, sign):
    (tmp_path / ".grown.partial").mkdir()
    if sign:
        (tmp_path / ".grown.partial" / sign).write_text("{}")
    make(continued, tmp_path / "grown")
    assert (tmp_path / "grown" / "file").read_text() == "ours"


def test_a_ledger_removes_links_and_directories_without_what_they_lead_to(tmp_path, precious):
    directory = tmp_path / "unfinished"
    directory.mkdir()
    write_json(directory / PROGRESS, {"recipe": {}, "files": {"listed": "digest"}})
    (directory / "listed").symlink_to(precious / "model.safetensors")
    (directory / "link").symlink_to(precious)
    (directory / "directory").mkdir()
    open_ledger(directory, {})
    assert content(precious) == {"model.safetensors": "precious"}
    assert not list(directory.iterdir())


@pytest.mark.parametrize("directory", [fresh, continued])
def test_an_output_that_was_killed_is_made_again_by_a_process_with_the_same_id(tmp_path, directory):
    with killed(), directory(tmp_path / "model") as partial:
        (partial / "half").write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == [partial.name]
    make(directory, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "file").read_text() == "ours"


@pytest.mark.parametrize("step", ["mkdir", "lock", "rename"])
@pytest.mark.parametrize("directory", [fresh, continued])
def test_nothing_is_left_of_a_process_killed_between_two_steps_once_another_came(
    tmp_path, monkeypatch, directory, step
):
    def die(*arguments, **options):
        raise KeyboardInterrupt

    with killed(), monkeypatch.context() as patch:
        if step == "mkdir":  # made, and not locked yet
            patch.setattr("grow.common.temporary.lock", die)
            patch.setattr("grow.common.files.lock", die)
        elif step == "lock":  # locked, and empty otherwise
            patch.setattr("grow.common.temporary._reclaim_directories", lambda output: None)
            patch.setattr("grow.common.temporary.publish", die)
            patch.setattr("grow.common.files.publish", die)
        else:  # its final name given, its marker not removed yet
            patch.setattr(Path, "unlink", die)
        with directory(tmp_path / "model"):
            pass
    try:
        make(directory, tmp_path / "model")
    except CheckpointError as error:
        assert step == "rename" and "already exists" in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert MARKER not in {path.name for path in (tmp_path / "model").iterdir()}


@pytest.mark.parametrize("directory", [fresh, continued])
def test_a_process_killed_while_it_removes_an_output_leaves_what_the_next_one_removes(tmp_path, monkeypatch, directory):
    unlinked, unlink, rmdir = [], os.unlink, os.rmdir

    def die_after_one(original):
        def step(path, **options):
            if unlinked:
                raise KeyboardInterrupt
            unlinked.append(path)
            original(path, **options)

        return step

    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch, directory(tmp_path / "model") as partial:
        for name in ("a", "z"):
            (partial / name).mkdir()
        patch.setattr(os, "unlink", die_after_one(unlink))
        patch.setattr(os, "rmdir", die_after_one(rmdir))
        raise ValueError
    assert unlinked
    make(directory, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert content(tmp_path / "model") == {"file": "ours"}


def test_process_ids_that_repeat_do_not_let_one_job_remove_what_another_makes(tmp_path):
    with fresh(tmp_path / "model") as first:
        (first / "file").write_text("first")
        with pytest.raises(ValueError), fresh(tmp_path / "model") as second:
            assert first != second
            raise ValueError
        assert (first / "file").read_text() == "first"
    assert content(tmp_path / "model") == {"file": "first"}


def test_the_slower_of_two_jobs_with_one_output_is_told_so(tmp_path):
    with pytest.raises(CheckpointError, match="another process made it meanwhile"), fresh(tmp_path / "model"):
        make(fresh, tmp_path / "model", "faster")
    assert content(tmp_path / "model") == {"file": "faster"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_two_growths_into_one_output_do_not_share_a_directory(tmp_path):
    with continued(tmp_path / "grown") as partial:
        (partial / "file").write_text("first")
        with pytest.raises(CheckpointError, match="another process is making it"), continued(tmp_path / "grown"):
            pass
        assert (partial / "file").read_text() == "first"


@pytest.mark.parametrize("foreign", [".model.0123abcd.partial", ".model.1234.partial", ".model.partial"])
def test_directories_that_grow_did_not_make_are_left_alone(tmp_path, precious, foreign):
    (tmp_path / foreign).mkdir()
    (tmp_path / foreign / "file").write_text("precious")
    (tmp_path / ".model.89abcdef.partial").symlink_to(precious)
    make(fresh, tmp_path / "model")
    assert content(tmp_path / foreign) == {"file": "precious"}
    assert content(precious) == {"model.safetensors": "precious"}


@pytest.mark.parametrize("directory", [fresh, continued])
def test_an_output_that_is_a_dangling_link_is_a_sentence(tmp_path, directory):
    (tmp_path / "model").symlink_to(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="already exists"):
        make(directory, tmp_path / "model")


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", [".file.partial", ".file.PROCESS.partial"])
def test_a_small_file_is_not_written_through_a_link_at_a_name_that_can_be_guessed(tmp_path, precious, writer, name):
    guessed = name.replace("PROCESS", str(os.getpid()))
    (tmp_path / guessed).symlink_to(precious / "model.safetensors")
    writer(tmp_path / "file")
    assert content(precious) == {"model.safetensors": "precious"}
    assert (tmp_path / "file").is_file() and not (tmp_path / "file").is_symlink()


@pytest.mark.parametrize("writer", WRITERS)
def test_small_files_that_killed_processes_left_are_removed_and_those_being_written_are_not(tmp_path, writer):
    old, new = tmp_path / ".file.0123abcd.partial", tmp_path / ".file.4567abcd.partial"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    writer(tmp_path / "file")
    assert {path.name for path in tmp_path.iterdir()} == {"file", new.name}


def test_a_small_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_json(tmp_path / "file", "old")
    with pytest.raises(TypeError):
        write_json(tmp_path / "file", object())
    assert json.loads((tmp_path / "file").read_text()) == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["grown", "grown_state"])
def test_a_runs_scratch_that_is_a_link_is_removed_without_what_it_leads_to(tmp_path, precious, name):
    (tmp_path / name).symlink_to(precious)
    with _temporary(tmp_path / name) as directory:
        directory.mkdir()
    assert content(precious) == {"model.safetensors": "precious"}
    assert not os.path.lexists(tmp_path / name)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o027, 0o077])
@pytest.mark.parametrize("directory", [fresh, continued])
def test_the_umask_decides_who_may_read_an_output(tmp_path, directory, umask):
    before = os.umask(umask)
    try:
        with directory(tmp_path / "model") as partial:
            save_file({"weight": torch.zeros(1)}, partial / "model.safetensors")
            (partial / "copied").touch(0o600)
            (partial / "tokenizer").mkdir()
            (partial / "tokenizer" / "file").write_text("")
    finally:
        os.umask(before)
    made = [tmp_path / "model", *(tmp_path / "model").rglob("*")]
    assert len(made) == 5
    for path in made:
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path
