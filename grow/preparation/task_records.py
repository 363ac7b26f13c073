"""What the tasks of a preparation wrote, put together: the manifest, and the report of what was found."""

import os
from pathlib import Path
from typing import Any

from grow.common.errors import DataError
from grow.common.printed import say
from grow.common.provenance import write_json
from grow.data.manifest import SPLITS, TOKENIZER_DIR, Shard, smallest_dtype, write_manifest
from grow.data.tokenizer import load_tokenizer, vocabulary_size
from grow.preparation.prepare_options import Options
from grow.preparation.texts import Sources

REPORT = "report.json"


def write_results(directory: Path, records: list[dict[str, Any]], options: Options) -> None:
    """Write manifest and report of all tasks, in the order of their numbers.

    Raises:
        DataError: there is nothing to train on or to hold out, or too much bad input.
    """
    findings, sources = options.reader().findings, Sources()
    for record in records:
        findings.add(record["findings"])
        for name in record["sources"]:
            sources.safe(name)
    findings.check()
    shards = [Shard(**shard) for record in records for shard in record["shards"]]
    shards.sort(key=lambda shard: (shard.split, shard.source))  # stable: by task and number
    documents = sum(shard.documents or 0 for shard in shards)
    _check_splits(shards, documents, options.validation_percent)
    tokenizer = load_tokenizer(str(directory / TOKENIZER_DIR))
    size = vocabulary_size(tokenizer)
    counts = findings.counts | {"documents": documents}
    prepared = {"options": options.of_the_data, "counts": counts, "inputs": _inputs(records)}
    write_manifest(
        directory,
        dtype=smallest_dtype(size),
        vocab_size=size,
        eos_id=int(tokenizer.eos_token_id),
        shards=shards,
        prepared=prepared,
    )
    write_json(directory / REPORT, {**findings.record(), "documents": documents})
    if any(findings.counts.values()):
        found = ", ".join(f"{kind} {count:,}" for kind, count in findings.counts.items() if count)
        lost = " How many tokens the damaged files lost is not known." if findings.counts["damaged_file"] else ""
        say(f"Found: {found} (places in {REPORT}).{lost}")


def _inputs(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return names, sizes and digests of all inputs; the folder that all lie in is left out of the names."""
    inputs = [each for record in records for each in record["inputs"]]
    folder = len(os.path.commonprefix([each["name"] for each in inputs]).rpartition("/")[0])  # noqa: RUF071, cut at a slash
    return [
        {"name": each["name"][folder:].lstrip("/"), "size": each["size"], "sha256": each["sha256"]} for each in inputs
    ]


def _check_splits(shards: list[Shard], documents: int, percent: float) -> None:
    missing = [split for split in SPLITS if not any(shard.split == split for shard in shards)]
    if missing:
        raise DataError(
            f"expected documents for training and for validation, found {documents} documents, none of them for "
            f"{missing[0]} ({percent:g} % are held out by hash). Give more, or shorter, documents."
        )
