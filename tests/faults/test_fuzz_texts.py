"""Whatever the bytes of a text file are, its reader gives documents or a DataError that names the file."""

import gzip
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grow.common.errors import DataError
from grow.preparation import texts
from grow.preparation.texts import Reader, TextFile

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda value: st.lists(value) | st.dictionaries(st.text() | st.just("text") | st.just("source"), value),
)
LINES = st.lists(JSON.map(json.dumps) | st.text() | st.text().map(lambda text: json.dumps({"text": text})))
BYTES = (
    st.binary()
    | LINES.map(lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass"))
    | st.text(st.sampled_from("ab \n\r\t\x00\u2028\ufeff")).map(str.encode)
)


@st.composite
def files(draw):
    """Draw a name and bytes: plain or gzipped, whole, cut, or with a byte changed."""
    raw = draw(BYTES)
    if draw(st.booleans()):
        raw = gzip.compress(raw, mtime=0)
    if raw and draw(st.booleans()):
        place = draw(st.integers(0, len(raw) - 1))
        raw = draw(
            st.sampled_from([raw[:place], raw[:place] + draw(st.binary(min_size=1, max_size=2)) + raw[place + 1 :]])
        )
    return draw(st.sampled_from(["a.txt", "a.jsonl", "a.json.gz", "a.md"])), raw


@given(files())
@example(("a.jsonl", b"[" * 100_000))
@example(("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}"))
@example(("a.jsonl", b'{"text": "' + b"x" * 5000))
@example(("a.txt", b"\x1f\x8b"))
@example(("a.txt", b"\xef\xbb"))
@example(("a.txt", b" " * 5000))
def test_any_bytes_are_documents_or_a_data_error(tmp_path, monkeypatch, file):
    monkeypatch.setattr(texts, "LONGEST_PASSAGE", 100)
    monkeypatch.setattr(texts, "PASSAGE_CHARACTERS", 10)
    monkeypatch.setattr(texts, "LONGEST_LINE", 1000)
    name, raw = file
    path = tmp_path / name
    path.write_bytes(raw)
    try:
        found = list(Reader().documents([TextFile(str(path), "made")]))
    except DataError as error:
        assert str(path) in str(error)
        return
    for document in found:
        assert document.text.strip() and document.source
        document.text.encode()
        assert name.endswith(("json.gz", "jsonl")) or len(document.text) <= 100


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\ufeff"), max_size=2000))
def test_plain_text_is_cut_and_nothing_but_line_ends_is_lost(tmp_path, monkeypatch, text):
    monkeypatch.setattr(texts, "LONGEST_PASSAGE", 40)
    monkeypatch.setattr(texts, "PASSAGE_CHARACTERS", 10)
    path = tmp_path / "a.txt"
    path.write_text(text, newline="")
    found = [document.text for document in Reader().documents([TextFile(str(path), "made")])]
    assert "".join("".join(found).split()) == "".join(text.split())


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"text": ' + b"1" * 5000 + b"}", b'{"text": "' + b"x" * 5000])
def test_odd_lines_are_named_by_file_and_number(tmp_path, monkeypatch, line):
    monkeypatch.setattr(texts, "LONGEST_LINE", 200_000 if line[:1] == b"[" else 5003)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n' + line)
    with pytest.raises(DataError, match=r"a\.jsonl:2: expected"):
        list(Reader().documents([TextFile(str(tmp_path / "a.jsonl"), "made")]))
