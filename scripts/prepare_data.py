"""Prepare token shards from texts, write a manifest for shards that exist, or compare shards with their digests.

python scripts/prepare_data.py input='[books,wiki.jsonl.gz]' output=data/mine vocab_size=8192
python scripts/prepare_data.py input='[@dolma-urls.txt]' output=data/dolma tokenizer=DIRECTORY_OR_HUB_ID workers=16
python scripts/prepare_data.py adopt=data/dolma tokenizer=DIRECTORY_OR_HUB_ID dtype=uint16 validation_tokens=5_000_000
python scripts/prepare_data.py verify=data/mine workers=4
"""

from grow.cli.command import entry_point
from grow.common.printed import say
from grow.preparation.prepare_settings import PrepareDataConfig


@entry_point("prepare_data", PrepareDataConfig)
def main(config: PrepareDataConfig) -> None:
    """Prepare, adopt or verify shards, and print how many tokens each source has."""
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from grow.preparation.configured import adopt_shards, prepare_texts, verify_shards

    if config.verify is not None:
        say(f"{config.verify}: {verify_shards(config):,} shards and the tokenizer are as the manifest says")
        return
    shards = prepare_texts(config) if config.adopt is None else adopt_shards(config)
    if shards is None:
        say(f"part={config.part}: done; {config.output} is complete when the other parts are.")
        return
    for split in ("train", "validation"):
        for source in shards.sources:
            say(f"{split:<12}{source:<24}{shards.tokens(split, source):>16,} tokens")
    say(f"{shards.path}: {shards.dtype}, vocabulary {shards.vocab_size}, eos {shards.eos_id}")


if __name__ == "__main__":
    main()
