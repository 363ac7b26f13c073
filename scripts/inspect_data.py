"""Look at training data: what a run reads at a step, what the sources hold, and which test items they contain.

python scripts/inspect_data.py corpus=data/english step=100 output=inspected    a page with texts, tables and plots
python scripts/inspect_data.py corpus=data/english position=5000 seed=1 data.sequence_length=256
python scripts/inspect_data.py decontaminate=data/eval corpus=data/english output=overlap.json
"""

from dataclasses import asdict
from pathlib import Path

from grow.cli.command import entry_point
from grow.cli.config import InspectDataConfig
from grow.common.printed import say


@entry_point("inspect_data", InspectDataConfig)
def main(config: InspectDataConfig) -> None:
    """Show sequences and sources, or search the training split for evaluation items."""
    if config.decontaminate is None:
        inspect(config)
    else:
        find_items(config, config.decontaminate)


def inspect(config: InspectDataConfig) -> None:
    """Print what a run reads and what the sources hold, and write the page."""
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from grow.data.shards import TokenShards
    from grow.data.tokenizer import load_tokenizer
    from grow.inspection.page import HEADER, source_row, write_page
    from grow.inspection.sequences import order_of, read_sequences
    from grow.inspection.statistics import repeated_share, source_statistics

    shards = TokenShards.open(config.data.path)
    tokenizer = load_tokenizer(str(shards.tokenizer_dir))
    windows, order = order_of(config.data, shards, config.seed)
    sequences = read_sequences(windows, order, config.positions, tokenizer)
    sources = source_statistics(shards, tokenizer)
    lines = [
        f"Sequences of {config.data.sequence_length} tokens from {config.positions.start:,} on, seed {config.seed}",
        f"{repeated_share(windows, order):.2%} of the first sequences repeat another",
        *([] if shards.warning is None else [shards.warning]),
    ]
    for one in sequences:
        say(
            f"{one.position:>10,}  {one.source}  {one.file} token {one.token:,}\n    {' '.join(one.text.split())[:200]}"
        )
    for row in (HEADER, *map(source_row, sources)):
        say("  ".join(f"{cell:<17}" for cell in row).rstrip())
    say("\n".join(lines))
    if config.output is not None:
        title = f"Training data of {shards.path}"
        page = write_page(Path(config.output), title=title, lines=lines, sources=sources, sequences=sequences)
        say(f"Wrote {page}")


def find_items(config: InspectDataConfig, directory: str) -> None:
    """Search the training split, and print a line for each task."""
    from grow.common.provenance import write_json
    from grow.data.shards import TokenShards
    from grow.evaluation.contamination import find_overlaps, training_documents
    from grow.evaluation.data import EvaluationData

    data, shards = EvaluationData.open(directory), TokenShards.open(config.data.path)
    data.check(data.tasks)
    overlaps = find_overlaps(data, training_documents(shards), config.ngram)
    for task, overlap in overlaps.items():
        say(f"{task:<16}{len(overlap.found):>7,} of {overlap.items:,} items; {overlap.too_short:,} cannot be told")
    if config.output is not None:
        facts = {"corpus": str(shards.path), "corpus_digest": shards.digest, "ngram": config.ngram}
        tasks = {task: asdict(overlap) for task, overlap in overlaps.items()}
        write_json(Path(config.output), {**facts, "items": str(data.path), "tasks": tasks})
        say(f"Wrote {config.output}")


if __name__ == "__main__":
    main()
