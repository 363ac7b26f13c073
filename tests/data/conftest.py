"""Tiny texts and the shards made of them."""

import json
import random
import shutil
from pathlib import Path

import pytest

from grow.data.shards import TokenShards
from grow.preparation.prepare import prepare
from grow.preparation.prepare_options import Options


def make_sentences(count: int, seed: int) -> list[str]:
    """`count` texts of made-up words."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 7))) for _ in range(200)]
    return [" ".join(draw.choices(words, k=draw.randint(10, 60))) for _ in range(count)]


def write_json_lines(path: Path, texts: list[str], source: str | None = None) -> Path:
    rows = [{"id": str(i), "text": text} | ({"source": source} if source else {}) for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prepare_files_small(output: Path, *files: Path, **options) -> TokenShards:
    options = {"tokenizer": None, "vocab_size": 400, "shard_tokens": 3000} | options
    how = {name: options.pop(name) for name in ("workers", "restart") if name in options}
    return prepare([str(file) for file in files], output, Options(**options), **how)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Two sources of documents as JSON lines."""
    directory = tmp_path_factory.mktemp("texts")
    write_json_lines(directory / "first.jsonl", make_sentences(300, seed=1))
    write_json_lines(directory / "second.jsonl", make_sentences(200, seed=2), source="web")
    return directory


@pytest.fixture(scope="session")
def prepared(corpus, tmp_path_factory) -> TokenShards:
    """Shards of the corpus; several files a split. Not to be changed."""
    output = tmp_path_factory.mktemp("prepared") / "shards"
    return prepare_files_small(output, corpus / "first.jsonl", corpus / "second.jsonl")


@pytest.fixture
def copied(prepared, tmp_path) -> TokenShards:
    """Shards that a test may damage."""
    shutil.copytree(prepared.path, tmp_path / "copy")
    return TokenShards.open(tmp_path / "copy")


@pytest.fixture(scope="session")
def sentences():
    """(count, seed) -> texts."""
    return make_sentences


@pytest.fixture(scope="session")
def write_jsonl():
    """(path, texts, source) -> the path, written."""
    return write_json_lines


@pytest.fixture(scope="session")
def prepare_texts():
    """(output, *files, **options) -> shards with a small vocabulary."""
    return prepare_files_small
