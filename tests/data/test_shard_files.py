"""Files are read at any place while few of them are open, and what cannot be read is named."""

import errno
import os

import pytest

from grow.common.errors import DataError
from grow.data import shard_files
from grow.data.shard_files import ShardFiles


def open_in(directory) -> int:
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]  # noqa: PTH208
    return sum(os.path.realpath(link).startswith(str(directory)) for link in links)


@pytest.fixture
def paths(tmp_path):
    """Ten files of their number, 8 bytes long."""
    for number in range(10):
        (tmp_path / str(number)).write_bytes(bytes([number] * 8))
    return [str(tmp_path / str(number)) for number in range(10)]


def test_few_files_are_open_those_used_last_and_none_at_the_end(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_files, "OPEN_FILES", 3)
    files = ShardFiles()
    assert files.read([(path, 2) for path in paths], 2) == bytes(number for number in range(10) for _ in range(2))
    files.read([(paths[7], 0)], 1)
    files.will_read(paths[0], 0, 8)
    assert list(files._open) == [paths[9], paths[7], paths[0]]
    assert open_in(tmp_path) == 3
    del files
    assert open_in(tmp_path) == 0


@pytest.mark.parametrize("size", [0, 5])
def test_a_file_that_is_cut_while_it_is_read_is_named_with_the_bytes_it_has(paths, size):
    files = ShardFiles()
    files.read([(paths[3], 0)], 8)
    os.truncate(paths[3], size)
    with pytest.raises(DataError, match=rf"/3: expected a shard of 8 bytes .* found {max(size - 2, 0)} of 6 bytes"):
        files.read([(paths[3], 2)], 6)


def test_a_file_that_is_gone_is_named_when_it_is_read_and_not_before(paths, tmp_path):
    files = ShardFiles()
    files.will_read(str(tmp_path / "gone"), 0, 8)
    with pytest.raises(DataError, match=r"gone: .*found No such file"):
        files.read([(str(tmp_path / "gone"), 0)], 8)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES])
@pytest.mark.parametrize("failures", [3, 9])
def test_errors_that_may_pass_are_retried_three_times_and_others_are_not(paths, monkeypatch, code, failures):
    left, pauses, pread = [failures + 1], [], os.pread  # the first one is tried again at once

    def failing(*args):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(code, os.strerror(code))
        return pread(*args)

    monkeypatch.setattr(os, "pread", failing)
    monkeypatch.setattr("time.sleep", pauses.append)
    if failures == 3 and code != errno.EACCES:
        assert ShardFiles().read([(paths[1], 0)], 4) == b"\1\1\1\1"
    else:
        with pytest.raises(DataError, match=os.strerror(code)):
            ShardFiles().read([(paths[1], 0)], 4)
    assert pauses == ([] if code == errno.EACCES else list(shard_files.RETRY_PAUSES_S))
    assert sum(shard_files.RETRY_PAUSES_S) == 10


def test_a_read_that_returns_less_than_there_is_goes_on(paths, monkeypatch):
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, offset: pread(file, min(size, 3), offset))
    assert ShardFiles().read([(paths[2], 0)], 8) == b"\2" * 8
