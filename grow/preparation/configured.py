"""What scripts/prepare_data.py is asked for: shards of texts, a manifest for shards that exist, or a comparison."""

from pathlib import Path

from grow.data.shards import TokenShards
from grow.preparation.adopt import adopt
from grow.preparation.prepare import prepare_part
from grow.preparation.prepare_options import Options
from grow.preparation.prepare_settings import PrepareDataConfig
from grow.preparation.verify_shards import verify


def prepare_texts(config: PrepareDataConfig) -> TokenShards | None:
    """Make token shards of texts; None where other parts are to be done."""
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


def verify_shards(config: PrepareDataConfig) -> int:
    """Compare every shard and the tokenizer with the manifest, and return how many shards there are."""
    return verify(Path(config.verify or ""), config.workers)


def adopt_shards(config: PrepareDataConfig) -> TokenShards:
    """Write a manifest for shards that exist."""
    assert config.tokenizer is not None  # the settings have checked
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
