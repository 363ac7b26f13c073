"""Safetensors files with any bytes changed: they are read right, or refused as damaged; never anything else."""

import json
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from grow.common.errors import CheckpointError
from grow.families.tensor_file import DTYPES
from grow.families.weights import SINGLE_FILE, WeightReader

TENSORS = {
    "model.norm.weight": torch.arange(6.0),
    "model.embed.weight": torch.arange(12, dtype=torch.bfloat16).view(3, 4),
    "count": torch.tensor(7),
    "none": torch.empty(0, 3),
    "mask": torch.tensor([True, False]),
}
WHOLE = save(TENSORS, {"format": "pt"})
LENGTH = struct.unpack("<Q", WHOLE[:8])[0]
HEADER = json.loads(WHOLE[8 : 8 + LENGTH])
DATA = WHOLE[8 + LENGTH :]


def check(directory, content):
    """Read every tensor as the safetensors library does, or refuse with a CheckpointError."""
    (directory / SINGLE_FILE).write_bytes(content)
    try:
        reader = WeightReader(directory)
        found = {name: reader.read(name) for name in reader.names}
    except CheckpointError as error:
        assert str(directory) in str(error) and "\n" not in str(error)
        return
    expected = load(content)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert found[name].view(-1).view(torch.uint8).equal(tensor.contiguous().view(-1).view(torch.uint8))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


EDITS = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "insert", "remove"]), st.floats(0, 1), st.binary(min_size=1, max_size=9)),
    max_size=4,
)


@given(edits=EDITS)
def test_changed_bytes_are_read_right_or_refused(directory, edits):
    content = WHOLE
    for kind, share, data in edits:
        place = int(share * len(content))
        before, after = content[:place], content[place:]
        content = {
            "set": before + data + after[len(data) :],
            "cut": before,
            "insert": before + data + after,
            "remove": before + after[len(data) :],
        }[kind]
    check(directory, content)


@given(place=st.integers(0, 8 * (8 + LENGTH) - 1))
def test_a_flipped_bit_of_the_header_is_read_right_or_refused(directory, place):
    content = bytearray(WHOLE)
    content[place // 8] ^= 1 << place % 8
    check(directory, bytes(content))


NUMBERS = st.one_of(
    st.integers(0, 80), st.sampled_from([-1, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30, 1.0, True, None])
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.one_of(st.sampled_from([*DTYPES, "F8_E4M3", "F4", "U16", "C64", "", "f32"]), NUMBERS),
        "shape": st.one_of(st.lists(NUMBERS, max_size=4), NUMBERS),
        "data_offsets": st.one_of(st.lists(NUMBERS, min_size=2, max_size=2), st.lists(NUMBERS, max_size=3)),
        "more": NUMBERS,
    },
)


@given(changes=st.dictionaries(st.sampled_from([*TENSORS, "__metadata__", "", "new", "\0", "é"]), ENTRIES, max_size=3))
def test_a_header_that_says_something_else_is_read_right_or_refused(directory, changes):
    header = {name: {**HEADER.get(name, {}), **change} for name, change in changes.items()}
    text = json.dumps({**HEADER, **header}).encode()
    check(directory, struct.pack("<Q", len(text)) + text + DATA)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@given(header=JSON, data=st.binary(max_size=16))
def test_any_json_as_a_header_is_read_right_or_refused(directory, header, data):
    text = json.dumps(header).encode()
    check(directory, struct.pack("<Q", len(text)) + text + data)


@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_right_or_refused(directory, content):
    check(directory, content)
