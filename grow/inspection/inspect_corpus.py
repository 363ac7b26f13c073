"""Shows what a run reads at some positions and what the sources of its data hold, on the terminal and as a page."""

from pathlib import Path

from grow.common.printed import say
from grow.data.shards import TokenShards
from grow.data.tokenizer import load_tokenizer
from grow.inspection.page import HEADER, source_row, write_page
from grow.inspection.sequences import order_of, read_sequences
from grow.inspection.settings import InspectDataConfig
from grow.inspection.statistics import repeated_share, source_statistics


def inspect_corpus(config: InspectDataConfig) -> None:
    """Print what a run reads and what the sources hold, and write the page.

    Raises:
        DataError: the shards are damaged or missing.
        ConfigError: the mixture names a source that has no window, or the page cannot be written.
    """
    shards, first = TokenShards.open(config.data.path), config.positions.start
    tokenizer = load_tokenizer(str(shards.tokenizer_dir))
    windows, order = order_of(config.data, shards, config.seed)
    sequences = read_sequences(windows, order, config.positions, tokenizer)
    sources = source_statistics(shards, tokenizer)
    lines = [
        f"Sequences of {config.data.sequence_length} tokens from {first:,} on, seed {config.seed}",
        f"{repeated_share(windows, order):.2%} of the first sequences repeat another",
        *([] if shards.warning is None else [shards.warning]),
    ]
    for one in sequences:
        say(f"{one.position:>10,}  {one.source}  {one.file} token {one.token:,}")
        say(" " * 11, " ".join(one.text.split())[:200])
    for row in (HEADER, *map(source_row, sources)):
        say("  ".join(f"{cell:<17}" for cell in row).rstrip())
    say("\n".join(lines))
    if config.output is not None:
        title = f"Training data of {shards.path}"
        page = write_page(Path(config.output), title=title, lines=lines, sources=sources, sequences=sequences)
        say(f"Wrote {page}")
