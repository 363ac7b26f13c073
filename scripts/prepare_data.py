"""Texts to token shards, or a manifest for shards that exist.

python scripts/prepare_data.py input='[books,wiki.jsonl.gz]' output=data/mine vocab_size=8192
python scripts/prepare_data.py input='[dolma]' output=data/dolma tokenizer=DIRECTORY_OR_HUB_ID
python scripts/prepare_data.py adopt=data/dolma tokenizer=DIRECTORY_OR_HUB_ID dtype=uint16 validation_tokens=5_000_000
"""

from pathlib import Path

from grow.cli.command import entry_point
from grow.data.settings import PrepareDataConfig


@entry_point("prepare_data", PrepareDataConfig)
def main(config: PrepareDataConfig) -> None:
    """Prepare or adopt, and print what came out."""
    shards = _prepare(config) if config.adopt is None else _adopt(config)
    for split in ("train", "validation"):
        for source in shards.sources:
            print(f"{split:<12}{source:<24}{shards.tokens(split, source):>16,} tokens")
    print(f"{shards.path}: {shards.dtype}, vocabulary {shards.vocab_size}, eos {shards.eos_id}")


def _prepare(config):
    from grow.data.prepare import prepare_files  # here, so that help and mistakes answer at once

    return prepare_files(
        config.input,
        Path(config.output),
        tokenizer=config.tokenizer,
        vocab_size=config.vocab_size,
        shard_tokens=config.shard_tokens,
    )


def _adopt(config):
    from grow.data.adopt import adopt

    return adopt(
        Path(config.adopt),
        tokenizer=config.tokenizer,
        dtype=config.dtype,
        validation_tokens=config.validation_tokens,
        vocab_size=config.vocab_size,
        eos_id=config.eos_id,
    )


if __name__ == "__main__":
    main()
