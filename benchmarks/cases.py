"""What the benchmarks measure on: models of random weights and data of random tokens. Importing it is cheap."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_LLAMA_1B_SIZES = {
    "layers": 16, "embed": 2048, "heads": 16, "kv_heads": 16, "head_dim": 128, "ffn": 5632, "vocab_size": 50304
}  # fmt: skip
LLAMA_1B = " ".join(
    ["llama_10m", "model.tied_head=false", *(f"model.{size}={length}" for size, length in _LLAMA_1B_SIZES.items())]
)
"""A model configuration, and overrides."""

SHAPES = {  # layers, embed, heads, ffn, sequence length
    "10m": (8, 256, 4, 704, 512),
    "124m": (12, 768, 12, 2048, 1024),
    "1.1b": (22, 2048, 16, 5632, 2048),
}


@dataclass(frozen=True, kw_only=True)
class TrainCase:
    """One comparison of training loops: a model, a dtype, and where it runs."""

    shape: str
    vocab: int
    precision: str
    micro_batch: int
    device: str
    compile: bool
    threads: int

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Layers, embed, heads, ffn and sequence length."""
        return SHAPES[self.shape]

    @property
    def tokens_per_step(self) -> int:
        return self.micro_batch * self.sizes[-1]


def make_random_checkpoint(model: str, directory: Path, dtype: "torch.dtype") -> None:
    """Write a stock checkpoint of random weights without ever holding the model.

    Args:
        model: Name of a model configuration, and overrides of it, separated by spaces.
        directory: Directory to make.
        dtype: Type of every weight.
    """
    import torch

    from grow.cli.config import compose
    from grow.families.build import model_on_meta
    from grow.families.experts import stored_tensors
    from grow.families.registry import family_of, stock_config
    from grow.families.tensor_file import TensorInfo
    from grow.families.weights import write_weights

    config = stock_config(compose([f"model={model.split()[0]}", *model.split()[1:], "data.sequence_length=64"]).model)
    config.dtype = dtype
    config.architectures = [type(model_on_meta(config)).__name__]
    shapes = stored_tensors(family_of(config.model_type), model_on_meta(config))
    tensors = [TensorInfo(name=name, shape=shape, dtype=dtype) for name, shape in shapes.items()]
    directory.mkdir()
    config.save_pretrained(directory)
    write_weights(directory, tensors, (torch.randn(info.shape, dtype=dtype) * 0.02 for info in tensors))


def make_shards(directory: Path, vocab: int) -> None:
    """Write token shards drawn by Zipf's law, in which there is nothing to learn but frequencies."""
    import numpy as np

    from grow.common.provenance import sha256
    from grow.data.manifest import Shard, write_manifest

    weights = 1 / np.arange(1, vocab + 1)
    draw = np.random.default_rng(0)
    shards = []
    for split, count in (("train", 2_000_000), ("validation", 20_000)):
        (directory / split).mkdir(parents=True)
        file = directory / split / "0.npy"
        draw.choice(vocab, size=count, p=weights / weights.sum()).astype("<u2").tofile(file)
        digest = sha256(file)
        shards.append(Shard(file=f"{split}/0.npy", split=split, source="zipf", start=0, tokens=count, sha256=digest))
    (directory / "tokenizer").mkdir()
    (directory / "tokenizer" / "tokenizer.json").write_text("{}")
    write_manifest(directory, dtype="uint16", vocab_size=vocab, eos_id=0, shards=shards)
