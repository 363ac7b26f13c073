"""Every kind of input gives the same documents; bad input is refused, or left out and counted, as its kind says."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grow.common.errors import DataError
from grow.preparation.findings import Findings
from grow.preparation.texts import Reader, find_texts

ROWS = [{"text": f"text {number}", "source": "web"} for number in range(40)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def zstd(raw):
    return pa.Codec("zstd").compress(raw, asbytes=True)


def parquet(path):
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path.read_bytes()


def read(*names, skip=False, **options):
    reader = Reader(findings=Findings(skip=skip, max_bad=options.pop("max_bad", None)), **options)
    return [document.text for document in reader.documents(find_texts(map(str, names)))], reader


@pytest.mark.parametrize(
    "raw",
    [
        LINES,
        gzip.compress(LINES),
        gzip.compress(LINES[:100]) + gzip.compress(LINES[100:]) + bytes(512),
        zstd(LINES),
        zstd(LINES[:100]) + zstd(LINES[100:]),
    ],
    ids=["plain", "gzip", "members and zero bytes", "zstd", "frames"],
)
def test_the_first_bytes_tell_how_a_file_is_packed(tmp_path, raw):
    (tmp_path / "a.json.gz").write_bytes(raw)
    texts, reader = read(tmp_path)
    assert texts == [row["text"] for row in ROWS]
    assert list(reader.digests) == [str(tmp_path / "a.json.gz")]


def test_parquet_urls_lists_and_data_sets_are_read_as_json_lines_are(tmp_path):
    import fsspec

    expected = [row["text"] for row in ROWS]
    parquet(tmp_path / "a.parquet")
    with fsspec.open("memory://texts/a.jsonl.gz", "wb") as file:
        file.write(gzip.compress(LINES))
    (tmp_path / "list").write_text("# names\nmemory://texts/*.gz\n")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes(LINES)
    for name in (tmp_path / "a.parquet", "memory://texts/a.jsonl.gz", "memory://texts", f"@{tmp_path / 'list'}"):
        assert read(name)[0] == expected
    assert read(f"hf://{tmp_path / 'set'}:train")[0] == expected


@pytest.mark.parametrize(
    ("name", "raw", "kind", "kept"),
    [
        ("a.jsonl", LINES + b'{"text": \n' + LINES, "bad_line", 80),
        ("a.jsonl", LINES + b"[" * 100_000 + b"\n" + LINES, "bad_line", 80),
        ("a.jsonl", b'{"text": "x", "n": ' + b"1" * 5000 + b"}\n" + LINES, "bad_line", 40),
        ("a.jsonl", b'["text"]\n' + LINES, "bad_line", 40),
        ("a.jsonl", b'{"text": null}\n' + LINES, "bad_line", 40),
        ("a.jsonl", LINES + b'{"text": "caf\xe9"}\n' + LINES, "bad_utf8", 80),
        ("a.txt", b"caf\xe9", "bad_utf8", 0),
        ("a.jsonl", gzip.compress(os.urandom(50_000).hex().encode() + b"\n")[:-9000], "damaged_file", 0),
        ("a.jsonl", zstd(LINES)[:-4], "damaged_file", 0),
        ("a.parquet", None, "damaged_file", 0),
    ],
)
def test_bad_input_is_refused_or_left_out_and_counted(tmp_path, name, raw, kind, kept):
    path = tmp_path / name
    path.write_bytes(raw if raw is not None else parquet(path)[:-30])
    place = "" if kind == "damaged_file" else r":\d+"
    with pytest.raises(DataError, match=rf"{name}{place}: "):
        read(path)
    texts, reader = read(path, skip=True)
    assert len(texts) == kept
    assert reader.findings.counts[kind] == 1
    assert reader.findings.places[0][:1] == [kind] and reader.findings.places[0][1].startswith(str(path))
    assert read(path, skip=True, max_bad=1)[0] == texts
    with pytest.raises(DataError, match="max_bad=0"):
        read(path, skip=True, max_bad=0)


def test_what_is_read_before_a_file_is_damaged_is_kept(tmp_path):
    lines = b"".join(json.dumps({"text": os.urandom(400).hex()}).encode() + b"\n" for _ in range(500))
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(lines)[:-50_000])
    texts, reader = read(tmp_path, skip=True)
    assert 200 < len(texts) < 500
    assert reader.findings.counts["damaged_file"] == 1


@pytest.mark.parametrize(
    ("name", "raw", "kind"),
    [
        ("a.jsonl", b'{"text": " \\n"}\n', "empty"),
        ("a.jsonl", b"", "empty"),
        ("a.txt", b"\n\n", "empty"),
        ("a.jsonl", b'{"text": "a \\ud83d b"}\n', "mended"),
    ],
)
def test_what_is_no_error_is_counted_and_never_refused(tmp_path, name, raw, kind):
    (tmp_path / name).write_bytes(raw)
    assert read(tmp_path)[1].findings.counts[kind] == 1


def test_sources_that_would_share_a_file_name_are_refused(tmp_path):
    rows = [{"text": "one", "source": "cc/en"}, {"text": "two", "source": "cc.en"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"'cc/en' and 'cc\.en'"):
        read(tmp_path)
    _, reader = read(tmp_path, source_key=None)
    assert list(reader.sources.safe_names) == [tmp_path.name]


def test_too_many_sources_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("grow.preparation.texts.MOST_SOURCES", 3)
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": "x", "source": str(n)}) for n in range(4)))
    with pytest.raises(DataError, match=r"at most 3 sources.*source_key=null"):
        read(tmp_path)


def test_a_missing_driver_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr("grow.common.inputs._system", lambda url: (_ for _ in ()).throw(ImportError("no s3fs")))
    with pytest.raises(DataError, match="pip install s3fs"):
        read("s3://bucket/a.jsonl")
