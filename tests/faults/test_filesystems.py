"""Odd filesystems: without locks, read-only, cut short by a crash."""

import errno
import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from grow.common.errors import CheckpointError, ConfigError
from grow.common.files import continued_directory
from grow.common.locks import LockHeldError, lock
from grow.common.rows import cut_torn_line, last_clock, numbered_rows, read_rows, whole_bytes
from grow.loggers.views import Views
from grow.preparation import corpus
from grow.training.loop.metrics import MetricsFile
from grow.training.run_directory import RunDirectory
from tests.training.tiny import in_process, make_shards

ROW = '{"step": 1, "tokens": 10, "flops": 60, "seconds": 1.0, "val/loss": 2.0}\n'
NEXT = ROW.replace('"step": 1', '"step": 2')


def make_corpus(path):
    with corpus._locked(path):
        pass


def enter_run(path):
    with RunDirectory(path).entered({}, "exact"):
        pass


def continue_directory(path):
    with continued_directory(path, 1, "progress.json"):
        pass


def lock_file(path):
    lock(path).close()


PLACES = {
    "a run": enter_run,
    "a directory being made": continue_directory,
    "a corpus": make_corpus,
    "a file": lock_file,
}
WITHOUT_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EIO, errno.EOPNOTSUPP, errno.EINVAL, errno.ESTALE, errno.EREMOTEIO]


def answering(monkeypatch, number):
    """Let the system answer every request for a lock with an error."""

    def refuse(handle, command, *arguments):
        raise OSError(number, os.strerror(number))

    for name in ("fcntl", "flock", "lockf"):
        monkeypatch.setattr(fcntl, name, refuse)


@pytest.mark.parametrize("number", WITHOUT_LOCKS, ids=errno.errorcode.get)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_filesystem_without_locks_is_said_as_that(tmp_path, monkeypatch, place, number):
    answering(monkeypatch, number)
    with pytest.raises(CheckpointError, match=rf"cannot be locked \({os.strerror(number)}\)") as caught:
        place(tmp_path / "out")
    assert "another process" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES], ids=errno.errorcode.get)
def test_a_lock_that_another_process_holds_is_said_as_that(tmp_path, monkeypatch, number):
    answering(monkeypatch, number)
    with pytest.raises(ConfigError, match="another process trains in this directory"):
        enter_run(tmp_path / "run")
    with pytest.raises(CheckpointError, match="another process is making it"):
        continue_directory(tmp_path / "out")
    with pytest.raises(LockHeldError):
        lock_file(tmp_path / "lock")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch, number):
    def refuse(self, *arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=rf"cannot be written \({os.strerror(number)}"):
        enter_run(tmp_path / "run")


TORN = {
    "no newline": '{"step": 3, "val/loss": 1',
    "a row without its newline": NEXT.rstrip(),
    "one brace": "{",
    "zeros of a crash": "\0" * 40,
    "zeros and a newline": "\0" * 40 + "\n",
    "no JSON": "garbage\n",
    "no object": "[1]\n",
    "half a character": b"\xc3".decode("latin1"),
}
READERS = {
    "read_rows": read_rows,
    "numbered_rows": lambda path: [row for _, row in numbered_rows(path)],
    "a continued run": lambda path: continued(path),
    "an appended row": lambda path: appended(path),
}


def continued(path):
    MetricsFile(path, path.stat().st_size).close()
    return [json.loads(line) for line in path.read_text().splitlines()]


def appended(path):
    cut_torn_line(path)
    with path.open("a") as file:
        file.write(NEXT)
    return [json.loads(line) for line in path.read_text().splitlines()][:-1]


@pytest.mark.parametrize("torn", TORN.values(), ids=TORN)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_torn_last_line_is_left_out_with_a_notice_by_every_reader(tmp_path, capsys, reader, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes((ROW + NEXT).encode() + torn.encode("latin1"))
    assert [row["step"] for row in reader(path)] == [1, 2]
    assert capsys.readouterr().err == f"notice: {path} ends in a torn line, which is left out.\n"


DAMAGED = {
    "no JSON": "garbage\n",
    "no object": "[1]\n",
    "a number": "1\n",
    "zeros": "\0\0\0\n",
    "half a row": '{"step": 3\n',
    "deep nesting": "[" * 100_000 + "\n",
    "half a character": b"\xc3(\n".decode("latin1"),
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED)
def test_damage_before_the_last_line_is_an_error_that_names_file_and_line(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(ROW.encode() + line.encode("latin1") + NEXT.encode())
    for read in (read_rows, lambda path: last_clock(path.parent)):
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 2: expected one row"):
            read(path)
    view = Views(tmp_path, {"none": None})
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 2"):
        MetricsFile(path, path.stat().st_size, views=Shown(view)).close()


class Shown:
    """Views that read all rows of earlier starts."""

    def __init__(self, views):
        self.views = views

    def start(self, rows):
        list(rows)


def test_blank_lines_and_rows_that_earlier_versions_glued_to_torn_ones_are_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(ROW + "\n" + '{"step": 2, "val/lo' + NEXT)
    assert [row["step"] for row in read_rows(path)] == [1, 2]
    assert [number for number, _ in numbered_rows(path)] == [1, 3]


@pytest.mark.parametrize("content", [b"", b"\n", ROW.encode(), (ROW + NEXT).encode(), (ROW + "\n").encode()])
def test_what_is_whole_is_not_cut(tmp_path, content):
    (tmp_path / "rows").write_bytes(content)
    cut_torn_line(tmp_path / "rows")
    assert (tmp_path / "rows").read_bytes() == content and whole_bytes(content) == len(content)


def test_rows_that_no_checkpoint_has_are_moved_aside_and_not_cut_to_nothing(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text(ROW)
    MetricsFile(path).close()
    (aside,) = tmp_path.glob("metrics.jsonl.before-*")
    assert aside.read_text() == ROW and path.read_text() == "" and str(aside) in capsys.readouterr().out


def test_a_file_of_rows_shorter_than_its_checkpoint_says_is_named(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text(ROW)
    MetricsFile(path, 1000).close()
    assert path.read_text() == ROW and "its last rows were lost" in capsys.readouterr().out


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """(run_dir, *more) -> the run directory, after train.py's task ran in this process."""
    return in_process(make_shards(tmp_path_factory.mktemp("shards")))


def test_rows_are_on_disk_before_the_checkpoint_that_counts_them_is_complete(train, tmp_path, monkeypatch):
    synced, on_disk, original = [], {}, os.fsync

    def fsync(handle):
        path = Path(f"/proc/self/fd/{handle}").resolve()
        synced.append(path)
        on_disk[path] = path.stat().st_size
        if path.name == "COMPLETE.json":
            state = json.loads((path.parent / "state.json").read_text())
            assert on_disk[tmp_path / "run" / "metrics.jsonl"] >= state["metrics_bytes"], path
            assert {tmp_path / "run" / "run.json", path.parent / "state.json"} <= set(synced)
        original(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    run = train(tmp_path / "run")
    assert [path.name for path in synced].count("metrics.jsonl") == 4  # at steps 3, 6, 9 and 10, and not for each row
    assert [path.name for path in synced].count("COMPLETE.json") == 4
    assert run in synced


@pytest.mark.parametrize("views", [(), ("logger=csv",)], ids=["no logger", "a logger"])
def test_a_run_continues_over_a_torn_last_line(train, tmp_path, views):
    run = train(tmp_path / "run", *views)
    shutil.rmtree(run / "model")
    whole = (run / "metrics.jsonl").read_bytes()
    for step in sorted((run / "checkpoints").iterdir())[1:]:
        shutil.rmtree(step)
    length = json.loads(next((run / "checkpoints").rglob("state.json")).read_text())["metrics_bytes"]
    (run / "metrics.jsonl").write_bytes(whole[: length - 7])
    train(run, *views)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in whole.decode().splitlines()]
    lost = len(whole[:length].splitlines()) - 1
    steps = [row["step"] for row in before]
    assert [row["step"] for row in rows] == steps[:lost] + steps[lost + 1 :]
