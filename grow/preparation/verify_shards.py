"""Compares token shards with the digests of their manifest, all of them, and lists what differs."""

from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from grow.common.errors import DataError
from grow.common.work_bar import WorkBar
from grow.data.shards import TokenShards


def verify(directory: Path, workers: int) -> int:
    """Read every shard and the tokenizer once.

    Args:
        directory: Directory with a manifest.
        workers: Shards that are read at once.

    Returns:
        Number of shards.

    Raises:
        DataError: some are not what they were when the manifest was written; all of them are listed.
    """
    shards = TokenShards.described(directory)
    faults = []
    sizes = [shards.bytes_of(shard) for shard in shards.shards]
    with WorkBar("compare shards", sum(sizes)) as bar, ThreadPoolExecutor(workers) as pool:  # hashing frees the GIL
        checks = {pool.submit(shards.check, shard): shard for shard in shards.shards}
        for check in as_completed(checks):
            shard = checks[check]
            bar.add(shard.documents or 0, shard.tokens, shards.bytes_of(shard))
            if isinstance(error := check.exception(), DataError):
                faults.append(str(error))
    try:
        shards.check_tokenizer()
    except DataError as error:
        faults.append(str(error))
    if faults:
        raise DataError("\n".join([f"{directory}: {len(faults)} of {len(sizes)} shards differ:", *sorted(faults)]))
    return len(sizes)
