"""The data of a run that continues: the token shards it began with, and no change to what it has already read.

RUN/data.json lists the shards at the run's first start; RUN/run.json has their digest.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from grow.common.errors import ConfigError, DataError
from grow.common.provenance import RUN_FILE
from grow.common.records import read_record
from grow.common.temporary import replaced_file
from grow.data.manifest import Shard
from grow.data.mixture import Mixture
from grow.data.shards import TokenShards

DATA_FILE = "data.json"
_NAMED = 5  # shards of each kind that an error names


@dataclass(kw_only=True, slots=True)
class _Digest:
    """Token shards of a run."""

    digest: str | None = None


@dataclass(kw_only=True, slots=True)
class _RunRecord:
    """What run.json says of the run's token shards."""

    data: _Digest | None = None


@dataclass(kw_only=True, slots=True)
class _DataRecord:
    """What data.json says of the shards that the run began with."""

    digest: str
    shards: list[Shard]


def check_same_data(run: Path, shards: TokenShards) -> None:
    """Refuse token shards other than those that a run began with; it may be begun anew, and they may have been moved.

    Args:
        run: Directory of the run.
        shards: Opened shards that it would go on with.

    Raises:
        DataError: the digests differ; the error lists the shards that were added, removed and changed.
        CheckpointError: run.json or data.json is damaged.
    """
    before = read_record(run / RUN_FILE, _RunRecord).data if (run / RUN_FILE).exists() else None
    if before is None or before.digest in (None, shards.digest):
        return
    raise DataError(
        f"{shards.path}: expected the token shards that the run of {run} began with (digest {before.digest}), found "
        f"others ({shards.digest}{_difference(run, before.digest, shards)}). Restore the data, give "
        "data.path=DIRECTORY where they are now, or choose another run_dir."
    )


def write_data_record(run: Path, shards: TokenShards) -> None:
    """Write data.json at a run's first start; later starts leave it as it is."""
    if (run / DATA_FILE).exists():
        return
    content = {"digest": shards.digest, "shards": [asdict(shard) for shard in shards.shards]}
    with replaced_file(run / DATA_FILE) as file:
        file.write(json.dumps(content) + "\n")  # on one line: there may be tens of thousands of shards


def check_same_past(run: Path, position: int, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse a mixture that is another one where the run has already read.

    Args:
        run: Directory of the run.
        position: Sequences that the run has read.
        before: Configuration of the data at the run's last start.
        now: Configuration of the data of this start.

    Raises:
        ConfigError: a stage differs that lies behind the run.
    """
    past, here = (_begun(data, position) for data in (before, now))
    if past != here:
        raise ConfigError(
            f"{run}: expected data.mixture or data.stages as they were for the {position:,} sequences that the run has "
            f"read ({past}), found others ({here}). Change stages that lie ahead only, or choose another run_dir."
        )


def _begun(data: dict[str, Any], position: int) -> Any:
    mixture = Mixture.of(data.get("mixture"), data.get("stages"), data["sequence_length"])
    if mixture is None:
        return "no mixture" if position else []
    return mixture.begun(position)


def _difference(run: Path, digest: str | None, shards: TokenShards) -> str:
    if not (run / DATA_FILE).exists():
        return ""
    record = read_record(run / DATA_FILE, _DataRecord)
    if record.digest != digest:
        return ""
    before, now = ({(shard.file, shard.start): shard for shard in each} for each in (record.shards, shards.shards))
    kinds = {
        "added": [key for key in now if key not in before],
        "removed": [key for key in before if key not in now],
        "changed": [key for key in now if key in before and now[key].sha256 != before[key].sha256],
    }
    return "".join(f"; {kind}: {_names(keys)}" for kind, keys in kinds.items() if keys)


def _names(keys: list[tuple[str, int]]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(file for file, _ in keys[:_NAMED]) + more
