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
    """Show sequences and sources; or search the training split for evaluation items, and print a line for each task."""
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from grow.common.provenance import write_json
    from grow.data.shards import TokenShards
    from grow.evaluation.contamination import find_overlaps, training_documents
    from grow.evaluation.data import EvaluationData
    from grow.inspection.inspect_corpus import inspect_corpus

    if config.decontaminate is None:
        inspect_corpus(config)
        return
    data, shards = EvaluationData.open(config.decontaminate), TokenShards.open(config.data.path)
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
