"""Prepare token shards from texts, or write a manifest for shards that exist.

python scripts/prepare_data.py input='[books,wiki.jsonl.gz]' output=data/mine vocab_size=8192
python scripts/prepare_data.py input='[dolma]' output=data/dolma tokenizer=DIRECTORY_OR_HUB_ID
python scripts/prepare_data.py adopt=data/dolma tokenizer=DIRECTORY_OR_HUB_ID dtype=uint16 validation_tokens=5_000_000
"""

from pathlib import Path
from typing import TYPE_CHECKING

from grow.cli.command import entry_point
from grow.common.printed import say
from grow.data.settings import PrepareDataConfig

if TYPE_CHECKING:
    from grow.data.shards import TokenShards


@entry_point("prepare_data", PrepareDataConfig)
def main(config: PrepareDataConfig) -> None:
    """Prepare or adopt shards, and print how many tokens each source has."""
    shards = prepare_texts(config) if config.adopt is None else adopt_shards(config)
    for split in ("train", "validation"):
        for source in shards.sources:
            say(f"{split:<12}{source:<24}{shards.tokens(split, source):>16,} tokens")
    say(f"{shards.path}: {shards.dtype}, vocabulary {shards.vocab_size}, eos {shards.eos_id}")


def prepare_texts(config: PrepareDataConfig) -> "TokenShards":
    """Make token shards of texts."""
    from grow.data.prepare import prepare_files  # here, so that help and configuration errors answer at once

    return prepare_files(
        config.input,
        Path(config.output),
        tokenizer=config.tokenizer,
        vocab_size=config.vocab_size,
        shard_tokens=config.shard_tokens,
    )


def adopt_shards(config: PrepareDataConfig) -> "TokenShards":
    """Write a manifest for shards that exist."""
    from grow.data.adopt import adopt  # here, so that help and configuration errors answer at once

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
