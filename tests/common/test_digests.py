"""Digests of files: two kinds, told apart by their text."""

import hashlib

import pytest
from blake3 import blake3

from grow.common.digests import ContentDigest, comparable, digest_like, file_digest


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 40_000)  # more than one piece
    return path


def test_a_file_has_the_digest_of_its_bytes_however_many_threads_read_it(file):
    expected = "blake3:" + blake3(file.read_bytes()).hexdigest()
    assert file_digest(file) == file_digest(file, threads=2) == expected


def test_pieces_have_the_digest_of_the_whole(file):
    digest, content = ContentDigest(), file.read_bytes()
    digest.update(content[:1000])
    digest.update(memoryview(content)[1000:])
    assert digest.text == file_digest(file)


def test_a_digest_is_compared_in_the_kind_it_was_written_in(file):
    old = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest_like(old, file) == old
    assert digest_like(file_digest(file), file) == file_digest(file)


def test_one_changed_bit_changes_digests_of_both_kinds(file):
    new, old = file_digest(file), digest_like("", file)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert file_digest(file) != new
    assert digest_like(old, file) != old


def test_digests_of_two_kinds_say_nothing_about_each_other():
    assert comparable("blake3:00", "blake3:11") and comparable("00", "11")
    assert not comparable("blake3:00", "00")
