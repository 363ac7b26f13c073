"""Records of where a run and its weights come from: run.json, lineage, digests, versions."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from grow.common.contained import read_errors_named
from grow.common.digests import ContentDigest, file_digest
from grow.common.records import read_record
from grow.common.redact import redacted
from grow.common.temporary import replaced_file

LINEAGE_FILE = "lineage.json"
RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
GROWTH_FILE = "growth.json"
STATE_FILE = "state.json"  # in a run's checkpoint
COMPLETE_FILE = "COMPLETE.json"  # in a run's checkpoint, written last
WANDB_FILE = "wandb.json"

_HASHING_THREADS = 4
_OPTIONAL = ("converted", "license")
_RECORDED_PACKAGES = ("torch", "transformers", "lightning", "deepspeed", "tokenizers", "safetensors", "numpy")


@dataclass(kw_only=True, slots=True)
class Lineage:
    """What was spent on a model before this run: on its source, and on the source's own sources.

    A cost that nobody recorded (that of a hub checkpoint, for instance) is None, never 0.
    """

    source: str
    digest: str
    """Digest over the source's weight files, by `digest_files`; bare hexadecimal where an older version wrote it."""
    tokens: int | None
    flops: int | float | None
    seconds: float | None
    converted: str | None = None
    """The other format that the source was converted from, and what that changed; None where it was not."""
    license: str | None = None
    """License of the source, as its model card names it; None where it names none."""

    def as_json(self) -> dict[str, Any]:
        """Return what lineage.json, growth.json and run.json say of it."""
        return {name: value for name, value in asdict(self).items() if name not in _OPTIONAL or value is not None}


@dataclass(kw_only=True, slots=True)
class _RunLineage:
    """What run.json says of the run's source."""

    lineage: Lineage | None


@dataclass(kw_only=True, slots=True)
class _Data:
    """Token shards of a run."""

    path: str | None = None


@dataclass(kw_only=True, slots=True)
class _RunData:
    """What run.json says of the run's token shards."""

    data: _Data | None = None


@dataclass(kw_only=True, slots=True)
class _CheckpointClock:
    """What state.json says of the run's clock."""

    step: int
    tokens: int
    flops: int | float
    seconds: float


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of one."""
    with replaced_file(path) as file:
        file.write(json.dumps(content, indent=2) + "\n")


def write_record(path: Path, content: Any) -> None:
    """Write a record of what was done, as `write_json` does, without the secrets that its texts may hold."""
    write_json(path, redacted(content))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(paths: list[Path]) -> str:
    """Return the BLAKE3 digest over the names and contents of weight files, in the order of their names.

    Raises:
        CheckpointError: a file was removed meanwhile, or cannot be read.
    """
    total = ContentDigest()
    for name, digest in _digests(paths, file_digest):
        total.update(f"{name}\0{digest}\n".encode())
    return total.text


def sha256_files(paths: list[Path]) -> str:
    """Return the SHA-256 over the names and contents of weight files, which the results of evaluations are kept under.

    Older versions wrote it into lineages too.

    Raises:
        CheckpointError: a file was removed meanwhile, or cannot be read.
    """
    total = hashlib.sha256()
    for name, digest in _digests(paths, sha256):
        total.update(name.encode() + b"\0" + bytes.fromhex(digest))
    return total.hexdigest()


def _digests(paths: list[Path], digest: Callable[[Path], str]) -> Iterator[tuple[str, str]]:
    """Yield name and digest of each file, in the order of their names."""

    def named(path: Path) -> str:
        with read_errors_named(path):
            return digest(path)

    paths = sorted(paths, key=lambda path: path.name)
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        yield from zip([path.name for path in paths], pool.map(named, paths), strict=True)


def digest_json(content: Any) -> str:
    """Return the SHA-256 of a JSON value; the order of its keys makes no difference."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_lineage(model_dir: Path) -> Lineage | None:
    """Read what was spent on the model in a directory; None where nobody recorded it."""
    path = model_dir / LINEAGE_FILE
    return read_record(path, Lineage) if path.exists() else None


def spent_on(model_dir: Path) -> Lineage | None:
    """Return what a model has cost up to now, its sources included; None where nobody recorded it.

    A model directory has it in its lineage.json. For a run's checkpoint (RUN/checkpoints/step-...) it is the cost of
    the run's source plus that of the run up to the checkpoint.
    """
    run = run_of(model_dir)
    if run is None or not (model_dir / STATE_FILE).is_file():
        return read_lineage(model_dir)
    spent = clock_of(model_dir)
    del spent["step"]
    before = lineage_of(run)
    if before is not None:
        costs = asdict(before)
        spent = {name: None if costs[name] is None else costs[name] + cost for name, cost in spent.items()}
    return Lineage(source=str(model_dir), digest="", **spent)


def lineage_of(run: Path) -> Lineage | None:
    """Return what had been spent on a run's source; None where the run began from noise.

    Raises:
        CheckpointError: run.json is missing, damaged, or has no lineage.
    """
    return read_record(run / RUN_FILE, _RunLineage).lineage


def run_of(directory: Path) -> Path | None:
    """Return the run that a directory lies in, which is the nearest parent with a run.json; None outside a run."""
    if not directory.is_dir():
        return None
    return next((parent for parent in directory.resolve().parents if (parent / RUN_FILE).is_file()), None)


def data_of(run: Path) -> Path | None:
    """Return the directory of token shards that a run was trained on; None where it recorded none."""
    data = read_record(run / RUN_FILE, _RunData).data
    return None if data is None or data.path is None else Path(data.path)


def clock_of(checkpoint: Path) -> dict[str, Any]:
    """Return step, tokens, flops and seconds of a run when it wrote a checkpoint, without those of its source."""
    return asdict(read_record(checkpoint / STATE_FILE, _CheckpointClock))


def write_lineage(model_dir: Path, lineage: Lineage) -> None:
    """Write what was spent on a model into its directory."""
    write_record(model_dir / LINEAGE_FILE, lineage.as_json())


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for package in _RECORDED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of Grow's working tree, with a trailing + where files differ from it; None outside git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
