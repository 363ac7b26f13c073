"""A language a tiny model learns in seconds, and one call that trains on it as train.py does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from grow.config import compose
from grow.data.shards import Shard, TokenShards, write_manifest

VOCAB, LENGTH = 64, 16
TINY = [
    "model=tiny",
    "growth=none",
    "data=shards",
    f"data.sequence_length={LENGTH}",
    f"model.vocab_size={VOCAB}",
    f"model.max_positions={LENGTH}",
    *("model.layers=2", "model.embed=16", "model.heads=2", "model.head_dim=8", "model.ffn=24"),
    *("trainer.micro_batch=4", "trainer.tokens_per_step=128", "trainer.max_tokens=1280", "trainer.log_every_steps=2"),
    *("trainer.val_every_tokens=512", "trainer.val_tokens=160", "trainer.accelerator=cpu"),
    *("checkpoint.every_tokens=384", "optimizer.lr=0.01", "schedule=cosine"),
]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shards_dir(tmp_path_factory) -> Path:
    """Token shards in which each token says a good deal about the next."""
    directory = tmp_path_factory.mktemp("shards")
    draw = np.random.default_rng(0)
    likely = draw.integers(1, VOCAB, size=(VOCAB, 2))
    shards = []
    for split, count in (("train", 4000), ("validation", 600)):
        tokens = [1]
        while len(tokens) < count:
            tokens.append(int(likely[tokens[-1], draw.integers(2)]))
        (directory / split).mkdir()
        np.array(tokens, "<u2").tofile(directory / split / "0.npy")
        shard = Shard(file=f"{split}/0.npy", split=split, source="made", start=0, tokens=count, sha256="")
        shards.append(shard)
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "tokenizer.json").write_text("{}")
    write_manifest(directory, dtype="uint16", vocab_size=VOCAB, eos_id=0, shards=shards)
    return directory


@pytest.fixture
def shards(shards_dir) -> TokenShards:
    return TokenShards.open(shards_dir)


@pytest.fixture
def overrides(shards_dir):
    """(run_dir, *more) -> the command line of a tiny run."""
    return lambda run_dir, *more: [*TINY, f"data.path={shards_dir}", f"run_dir={run_dir}", *more]


@pytest.fixture
def train(overrides):
    """(run_dir, *more) -> the run directory, after train.py's task ran in this process."""
    import train as entry

    def run(run_dir: Path, *more: str) -> Path:
        entry.main.__wrapped__(compose(overrides(run_dir, *more)))
        return run_dir

    return run


@pytest.fixture
def rows():
    """run directory -> rows of its metrics.jsonl."""
    return lambda run_dir: [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
