"""Prepare token shards from texts, write a manifest for shards that exist, or compare shards with their digests.

python scripts/prepare_data.py input='[books,wiki.jsonl.gz]' output=data/mine vocab_size=8192
python scripts/prepare_data.py input='[@dolma-urls.txt]' output=data/dolma tokenizer=DIRECTORY_OR_HUB_ID workers=16
python scripts/prepare_data.py adopt=data/dolma tokenizer=DIRECTORY_OR_HUB_ID dtype=uint16 validation_tokens=5_000_000
python scripts/prepare_data.py verify=data/mine workers=4
"""

from pathlib import Path
from typing import TYPE_CHECKING

from grow.cli.command import entry_point
from grow.common.printed import say
from grow.preparation.prepare_settings import PrepareDataConfig

if TYPE_CHECKING:
    from grow.data.shards import TokenShards


@entry_point("prepare_data", PrepareDataConfig)
def main(config: PrepareDataConfig) -> None:
    """Prepare, adopt or verify shards, and print how many tokens each source has."""
    if config.verify is not None:
        verify_shards(config)
        return
    shards = prepare_texts(config) if config.adopt is None else adopt_shards(config)
    if shards is None:
        say(f"part={config.part}: done; {config.output} is complete when the other parts are.")
        return
    for split in ("train", "validation"):
        for source in shards.sources:
            say(f"{split:<12}{source:<24}{shards.tokens(split, source):>16,} tokens")
    say(f"{shards.path}: {shards.dtype}, vocabulary {shards.vocab_size}, eos {shards.eos_id}")


def prepare_texts(config: PrepareDataConfig) -> "TokenShards | None":
    """Make token shards of texts; None where other parts are to be done."""
    from grow.data.shards import TokenShards
    from grow.preparation.prepare import prepare_part  # here, so that help and configuration errors answer at once
    from grow.preparation.prepare_options import Options

    options = Options(
        tokenizer=config.tokenizer,
        vocab_size=config.vocab_size,
        shard_tokens=config.shard_tokens,
        validation_percent=config.validation_percent,
        task_mb=config.task_mb,
        text_key=config.text_key,
        source_key=config.source_key,
        id_key=config.id_key,
        skip=config.bad == "skip",
        max_bad=config.max_bad,
    )
    output, part = Path(config.output or ""), config.part_of
    done = prepare_part(config.input, output, options, part=part, workers=config.workers, restart=config.restart)
    return TokenShards.open(output) if done else None


def verify_shards(config: PrepareDataConfig) -> None:
    """Compare every shard and the tokenizer with the manifest."""
    from grow.preparation.verify_shards import verify  # here, so that help and configuration errors answer at once

    shards = verify(Path(config.verify or ""), config.workers)
    say(f"{config.verify}: {shards:,} shards and the tokenizer are as the manifest says")


def adopt_shards(config: PrepareDataConfig) -> "TokenShards":
    """Write a manifest for shards that exist."""
    from grow.preparation.adopt import adopt  # here, so that help and configuration errors answer at once

    return adopt(
        Path(config.adopt or ""),
        output=None if config.output is None else Path(config.output),
        mix=None if config.mix is None else Path(config.mix),
        workers=config.workers,
        tokenizer=config.tokenizer,
        dtype=config.dtype,
        validation_tokens=config.validation_tokens,
        vocab_size=config.vocab_size,
        eos_id=config.eos_id,
    )


if __name__ == "__main__":
    main()
