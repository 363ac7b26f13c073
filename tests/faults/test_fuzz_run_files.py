"""Files of a run with any content at all: each is read, or refused in one sentence; nothing else is raised."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from grow.common.errors import CheckpointError
from grow.common.rows import cut_torn_line, read_rows, whole_bytes
from grow.training.checkpoints.integrity import digests
from grow.training.checkpoints.run_state import RunState, read_state

ROW = b'{"step": 1, "tokens": 10}\n'
STATE = {"kind": "rolling", "seconds": 1.0} | dict.fromkeys(
    ("step", "tokens", "flops", "sequences", "updates", "metrics_bytes"), 1
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
states = values | st.dictionaries(st.sampled_from([*STATE, "format", "average", "colour"]), values).map(STATE.__or__)
names = st.sampled_from(["config.json", "rng.safetensors", "state.json", "../x", "/x"])
rows = st.lists(st.sampled_from([ROW, b"\n", b"{}\n", b"[1]\n", b"\0\0", b'{"step": 2, "to']) | st.binary(max_size=20))


@given(rows.map(b"".join))
def test_rows_of_any_bytes_are_read_or_refused(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    try:
        assert all(isinstance(row, dict) for row in read_rows(path))
    except CheckpointError as error:
        assert f"{path}, line " in str(error)


@given(rows.map(b"".join))
def test_a_row_behind_any_bytes_is_never_glued_to_them(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    cut_torn_line(path)
    kept = path.read_bytes()
    assert content.startswith(kept) and content[len(kept) :].count(b"\n") <= 1
    path.write_bytes(kept + ROW)
    assert whole_bytes(kept + ROW) == len(kept + ROW)
    assert json.loads(path.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[2]) == json.loads(ROW)


@given(
    st.dictionaries(st.sampled_from([*STATE, "format", "average", "colour"]), values).map(lambda x: STATE | x) | values
)
def test_any_state_is_read_or_refused(tmp_path, content):
    (tmp_path / "state.json").write_text(json.dumps(content))
    try:
        state = read_state(tmp_path)
    except CheckpointError as error:
        assert "state.json: expected" in str(error)
    else:
        assert isinstance(state, RunState) and isinstance(state.step, int) and isinstance(state.kind, str)


@given(
    st.dictionaries(st.sampled_from(["config.json", "rng.safetensors", "state.json", "../x", "/x"]), values) | values
)
def test_any_digests_are_read_or_refused(tmp_path, content):
    path = tmp_path / "COMPLETE.json"
    path.write_text(json.dumps(content))
    try:
        assert all("/" not in name and isinstance(digest, str) for name, digest in digests(path).items())
    except CheckpointError as error:
        assert "COMPLETE.json: expected" in str(error)


@pytest.mark.parametrize("name", ["state.json", "COMPLETE.json"])
@given(content=st.binary(max_size=40))
@example(content=b"[" * 100_000)
@example(content=b"9" * 5000)
def test_files_of_any_bytes_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        read_state(tmp_path) if name == "state.json" else digests(tmp_path / name)
