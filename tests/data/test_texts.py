"""Texts are found, unpacked and cut into documents, and what is no document is named with file and line."""

import gzip
import json

import pytest

from grow.common.errors import DataError
from grow.preparation.texts import PASSAGE_CHARACTERS, Reader, find_texts


def documents(*inputs):
    return list(Reader().documents(find_texts([str(name) for name in inputs])))


def test_dolma_rows_carry_their_source(tmp_path):
    rows = [{"id": "1", "text": "one", "source": "wiki"}, {"id": "2", "text": "two"}]
    (tmp_path / "part.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert documents(tmp_path / "part.jsonl") == [("one", "wiki"), ("two", "part")]


def test_compression_is_told_by_content_not_by_name(tmp_path):
    row = json.dumps({"text": "packed"}).encode()
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(row))
    (tmp_path / "b.json.gz").write_bytes(row)
    assert [document.text for document in documents(tmp_path)] == ["packed", "packed"]


def test_directories_and_patterns_name_the_source(tmp_path):
    (tmp_path / "books" / "deep").mkdir(parents=True)
    (tmp_path / "books" / "a.txt").write_text("first")
    (tmp_path / "books" / "deep" / "b.txt").write_text("second")
    (tmp_path / "books" / "c.pdf").write_text("no text")
    assert documents(tmp_path / "books") == [("first", "books"), ("second", "books")]
    assert documents(tmp_path / "books" / "*.txt") == [("first", "books")]


def test_a_file_named_twice_is_read_once(tmp_path):
    (tmp_path / "a.txt").write_text("once")
    assert len(documents(tmp_path / "a.txt", tmp_path)) == 1


def test_a_source_cannot_leave_the_output_directory(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x", "source": "../../etc/x"}))
    assert documents(tmp_path / "a.jsonl")[0].source == "etc-x"


def test_text_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path):
    paragraphs = [f"paragraph {i} " + "word " * 50 for i in range(100)]
    (tmp_path / "a.txt").write_text("\n\n".join(paragraphs))
    found = [document.text for document in documents(tmp_path / "a.txt")]
    assert len(found) > 3
    assert "\n\n".join(found) == "\n\n".join(paragraphs)
    assert all(len(text) < 2 * PASSAGE_CHARACTERS for text in found)


def test_empty_documents_are_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "  "}\n\n{"text": "x"}\n')
    assert [document.text for document in documents(tmp_path / "a.jsonl")] == ["x"]


@pytest.mark.parametrize("line", ['{"text": ', '"text"', '{"body": "x"}', '{"text": 3}'])
def test_a_bad_line_is_named_by_file_and_number(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2: expected"):
        documents(tmp_path / "a.jsonl")


def test_half_a_surrogate_pair_does_not_stop_the_run(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a \\ud83d b"}')
    assert documents(tmp_path / "a.jsonl")[0].text == "a ? b"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9", "expected UTF-8"),
        (b"\x28\xb5\x2f\xfd rest", "Is the file complete"),
        (gzip.compress(b"some text " * 1000)[:30], "Is the file complete"),
    ],
    ids=["latin-1", "zstd", "truncated gzip"],
)
def test_an_unreadable_file_is_named(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.txt(:1)?: .*{message}"):
        documents(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["missing.txt", "", "*.txt"])
def test_an_input_without_texts_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="expected a file, directory or pattern"):
        documents(tmp_path / name)
