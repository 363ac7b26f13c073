"""A JSON file that is damaged, or of another shape, is a sentence that names it; later versions may add keys."""

import json
from dataclasses import asdict

import pytest

from grow.common.errors import GrowError
from grow.common.provenance import Lineage, write_json
from grow.common.records import read_object, read_record
from tests.faults.records_on_disk import CHECKPOINT, READERS, ROWS, WHOLE, keep, open_progress, read_all_rows

DAMAGES = {
    "empty": b"",
    "blank": b" \n",
    "torn": b'{"step": 1',
    "null": b"null",
    "true": b"true",
    "number": b"3",
    "text": b'"text"',
    "list": b"[]",
    "list of lists": b"[[1], [2]]",
    "not UTF-8": b"\xff\xfe\x00{",
    "UTF-8 cut": '{"name": "é'.encode()[:-1],
    "zeros": bytes(64),
    "nested lists": b"[" * 1_000_000,
    "nested objects": b'{"a":' * 100_000,
    "closed nested lists": b"[" * 50_000 + b"]" * 50_000,
    "long number": b'{"step": ' + b"9" * 5000 + b"}",
    "two values": b"{} {}",
    "comma": b'{"step": 1,}',
    "HTML": b"<html>Not found</html>",
}
OTHERS = [None, True, 1.5, -1, "text", [], [None], {}, {"a": None}, 10**400, float("nan")]
PAIRS = [(name, reader) for name, readers in READERS.items() for reader in range(len(readers))]


def paths_in(content, before=()):
    """Yield the path of every value in a JSON value."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*before, key)
        yield from paths_in(value, (*before, key))


def changed(content, path, value):
    """Return a copy with another value at a path; without it where the value is `...`."""
    content = json.loads(json.dumps(content))
    place = content
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(content).encode()


def outcome(reader, *arguments):
    """Return what a reader says of a file: None, or its error; any other exception is a fault."""
    try:
        reader(*arguments)
    except GrowError as error:
        return error
    return None


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return keep(tmp_path_factory.mktemp("records"))


@pytest.fixture
def damaged(kept):
    """Return a function that damages a file; afterwards it is whole again."""
    whole = {}

    def write(name, content):
        whole.setdefault(name, (kept.path / name).read_bytes())
        kept.write(name, content)

    yield write
    for name, content in whole.items():
        kept.write(name, content)


@pytest.mark.parametrize(("name", "reader"), PAIRS)
def test_a_whole_file_is_read(kept, name, reader):
    found = outcome(READERS[name][reader], kept.path)
    assert found is None or any(part in str(found) for part in ("nowhere", "another configuration", CHECKPOINT))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("name", "reader"), PAIRS)
def test_a_damaged_file_is_a_sentence_that_names_it(kept, damaged, name, reader, damage):
    damaged(name, DAMAGES[damage])
    found = outcome(READERS[name][reader], kept.path)
    assert found is not None and found.exit_code == 77
    assert name in str(found) and len(str(found)) < 2000


@pytest.mark.parametrize(("name", "reader"), PAIRS)
def test_a_file_of_another_shape_is_a_sentence_or_makes_no_difference(kept, damaged, name, reader):
    for path in paths_in(WHOLE[name]):
        for value in (..., *OTHERS):
            damaged(name, changed(WHOLE[name], path, value))
            outcome(READERS[name][reader], kept.path)


@pytest.mark.parametrize(("name", "reader"), [pair for pair in PAIRS if not pair[0].startswith("checkpoints")])
def test_keys_of_a_later_version_are_no_fault(kept, damaged, name, reader):
    before = outcome(READERS[name][reader], kept.path)
    if name == "analysis/forgetting.json":
        pytest.skip("its keys are names of scores")
    damaged(name, json.dumps({**WHOLE[name], "of a later version": {"a": [1]}}).encode())
    assert str(outcome(READERS[name][reader], kept.path)) == str(before)


@pytest.mark.parametrize("name", READERS)
def test_a_directory_in_the_place_of_a_file_is_a_sentence(kept, tmp_path, name):
    copy = keep(tmp_path).path
    (copy / name).unlink()
    (copy / name).mkdir()
    for reader in READERS[name]:
        outcome(reader, copy)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rows_are_a_sentence_or_left_out(kept, damaged, damage):
    for before, after in ((b"", b""), (b"", b"\n"), (json.dumps(ROWS[0]).encode() + b"\n", b"\n{}\n")):
        damaged("metrics.jsonl", before + DAMAGES[damage] + after)
        outcome(read_all_rows, kept.path)


def test_rows_of_another_shape_are_a_sentence_or_make_no_difference(kept, damaged):
    for name in ROWS[0]:
        for value in (..., *OTHERS):
            damaged("metrics.jsonl", changed(ROWS[0], (name,), value) + b"\n" + json.dumps(ROWS[1]).encode() + b"\n")
            outcome(read_all_rows, kept.path)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_growth_begins_anew_where_the_ledger_is_damaged(kept, damaged, damage):
    damaged("progress.json", DAMAGES[damage])
    assert outcome(open_progress, kept.path) is None


def test_a_growth_begins_anew_where_the_ledger_has_another_shape(kept, damaged):
    for path in paths_in(WHOLE["progress.json"]):
        for value in (..., *OTHERS):
            damaged("progress.json", changed(WHOLE["progress.json"], path, value))
            assert outcome(open_progress, kept.path) is None


def test_what_is_written_of_a_directory_whose_name_is_not_utf_8_is_read_again(tmp_path):
    lineage = Lineage(source="/runs/\udcff", digest="0", tokens=None, flops=1, seconds=0.5)
    write_json(tmp_path / "lineage.json", {**asdict(lineage), "argv": ["\udc80", "\U0001f331"]})
    assert read_record(tmp_path / "lineage.json", Lineage) == lineage
    assert read_object(tmp_path / "lineage.json", Lineage)["argv"] == ["\udc80", "\U0001f331"]
