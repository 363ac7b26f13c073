"""Tiny training runs for tests: a language that a tiny model learns in seconds, and the command line to train it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from grow.cli.config import compose
from grow.common.provenance import sha256
from grow.data.manifest import Shard, write_manifest
from grow.training.checkpoints.checkpoint_reader import STARTS

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


def command_line(shards_dir: Path, run_dir: Path, *more: str) -> list[str]:
    """Return the overrides of a tiny run."""
    return [*TINY, f"data.path={shards_dir}", f"run_dir={run_dir}", *more]


def make_shards(directory: Path) -> Path:
    """Write token shards in which each token largely determines the next."""
    draw = np.random.default_rng(0)
    likely = draw.integers(1, VOCAB, size=(VOCAB, 2))
    shards = []
    for split, count in (("train", 4000), ("validation", 600)):
        tokens = [1]
        while len(tokens) < count:
            tokens.append(int(likely[tokens[-1], draw.integers(2)]))
        (directory / split).mkdir()
        file = directory / split / "0.npy"
        np.array(tokens, "<u2").tofile(file)
        shards.append(
            Shard(file=f"{split}/0.npy", split=split, source="made", start=0, tokens=count, sha256=sha256(file))
        )
    words = Tokenizer(models.WordLevel({f"w{token:02}": token for token in range(VOCAB)}))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w00").save_pretrained(directory / "tokenizer")
    write_manifest(directory, dtype="uint16", vocab_size=VOCAB, eos_id=0, shards=shards)
    return directory


def cut_in_two(checkpoint: Path, files: str) -> None:
    """Give a checkpoint's shard the layout of two ZeRO ranks, cut where no parameter ends."""
    (whole,) = checkpoint.glob(files)
    with safe_open(whole, framework="pt") as file:
        starts, tensors = json.loads(file.metadata()[STARTS]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    whole.unlink()
    for rank in range(2):
        parts = {key: (t[t.numel() // 3 :] if rank else t[: t.numel() // 3]).clone() for key, t in tensors.items()}
        lengths = {name: next(t.numel() for key, t in tensors.items() if name in key.split("/")) for name in starts}
        begin = {name: length // 3 * rank for name, length in lengths.items()}
        path = checkpoint / files.replace("*", f"{rank:05}-of-00002")
        save_file(parts, path, metadata={STARTS: json.dumps(begin)})
    digests = {file.name: sha256(file) for file in checkpoint.iterdir() if file.name != "COMPLETE.json"}
    (checkpoint / "COMPLETE.json").write_text(json.dumps(digests))


def in_process(shards_dir: Path) -> Callable[..., Path]:
    """Return a function (run_dir, *more) that runs train.py's task in this process and returns the run directory."""
    import train as entry

    torch.set_num_threads(1)

    def run(run_dir: Path, *more: str) -> Path:
        entry.main.__wrapped__(compose(command_line(shards_dir, run_dir, *more)))
        return run_dir

    return run
