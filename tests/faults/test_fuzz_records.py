"""Whatever bytes a record's file holds, each of its readers returns a record or raises one of Grow's errors."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.records_on_disk import READERS, ROWS, WHOLE, keep, open_progress, read_all_rows, rows_as_bytes
from tests.faults.test_records import changed, outcome, paths_in

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@st.composite
def edited(draw, whole):
    """A whole file in which a few bytes were changed, added or lost."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        content[start : start + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(content)


def files(whole):
    """Contents of a file that is like a whole one."""
    raw = json.dumps(whole).encode()
    replaced = st.builds(changed, st.just(whole), st.sampled_from(list(paths_in(whole))), st.just(...) | VALUES)
    return st.binary() | VALUES.map(lambda value: json.dumps(value).encode()) | edited(raw) | replaced


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return keep(tmp_path_factory.mktemp("records"))


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_any_file_is_a_record_or_an_error_of_grow(kept, name, data):
    path = kept.write(name, data.draw(files(WHOLE[name])))
    for reader in READERS[name]:
        outcome(reader, kept.path)
    path.write_text(json.dumps(WHOLE[name]))


@given(content=files(WHOLE["progress.json"]))
def test_any_ledger_is_continued_or_begun_anew(kept, content):
    kept.write("progress.json", content)
    assert outcome(open_progress, kept.path) is None


@given(
    content=edited(rows_as_bytes(ROWS))
    | st.lists(st.dictionaries(st.sampled_from(list(ROWS[0])), VALUES) | VALUES).map(rows_as_bytes)
)
def test_any_rows_are_rows_or_an_error_of_grow(kept, content):
    kept.write("metrics.jsonl", content)
    outcome(read_all_rows, kept.path)
    kept.write("metrics.jsonl", rows_as_bytes(ROWS))
