"""Reading 2.4 trillion tokens in 37,500 shards: sparse files, which take no space but their names."""

import json
import os
import subprocess
import sys

import pytest

from grow.data.manifest import Shard, write_manifest

SHARDS, TOKENS, SOURCES = 37_500, 64_000_000, 15

READER = """
import json, resource, sys, time
import numpy as np
from grow.data.data_module import TokenDataModule
from grow.data.shards import TokenShards

resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) * 1024

TokenShards.open(sys.argv[2])  # imports what it needs
before, started = resident(), time.perf_counter()
shards = TokenShards.open(sys.argv[1])
sequences = 2_400_000_000_000 * 9 // 10 // 2048
data = TokenDataModule(
    shards, sequence_length=2048, micro_batch=8, seed=0, val_tokens=20_480, start_sequence=sequences, read_ahead=64
)
opened, grown = time.perf_counter() - started, resident() - before
batches = iter(data.train_dataloader())
started = time.perf_counter()
next(batches)
first = time.perf_counter() - started
for _ in range(50):
    next(batches)
print(json.dumps({"shards": len(shards.shards), "opened_s": opened, "grown": grown, "first_s": first}))
"""


def sparse(directory, count, tokens):
    """Shards of zeros, the last tenth of a percent of them for validation."""
    (directory / "tokenizer").mkdir(parents=True)
    (directory / "tokenizer" / "tokenizer.json").write_text("{}")
    shards = []
    for number in range(count):
        split = "validation" if number % 1000 == 999 or number == count - 1 else "train"
        file = f"{split}-{number:05}.npy"
        with (directory / file).open("wb") as empty:
            empty.truncate(2 * tokens)
        source = f"source-{number * SOURCES // count:02}"
        shards.append(Shard(file=file, split=split, source=source, start=0, tokens=tokens, sha256=f"{number:064}"))
    write_manifest(directory, dtype="uint16", vocab_size=50_280, eos_id=0, shards=shards)
    return directory


@pytest.mark.slow
def test_trillions_of_tokens_open_with_few_files_in_little_memory(tmp_path, record_property):
    whole, tiny = sparse(tmp_path / "whole", SHARDS, TOKENS), sparse(tmp_path / "tiny", 2, 5000)
    run = [sys.executable, "-c", READER, str(whole), str(tiny)]
    done = subprocess.run(run, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert found["shards"] == SHARDS
    assert found["grown"] < 100e6
