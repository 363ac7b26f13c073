"""Where a run and its weights come from: run.json, lineage, digests, atomic files."""

import hashlib
import json
import os
import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from grow.common.errors import CheckpointError

LINEAGE_FILE = "lineage.json"
RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
GROWTH_FILE = "growth.json"
STATE_FILE = "state.json"  # of a run's checkpoint
COMPLETE_FILE = "COMPLETE.json"  # of a run's checkpoint, written last
WANDB_FILE = "wandb.json"

_HASHED_AT_ONCE = 4
_RECORDED_PACKAGES = ("torch", "transformers", "lightning", "deepspeed", "tokenizers", "safetensors", "numpy")


@dataclass(kw_only=True, slots=True)
class Lineage:
    """What was spent on a model before this run: by its source, and by the source's sources.

    A cost that nobody recorded (a hub checkpoint's, say) is None, never 0.
    """

    source: str
    digest: str
    """SHA-256 over the source's weight files."""
    tokens: int | None
    flops: int | None
    seconds: float | None


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        CheckpointError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: expected this file, found none. Is the directory complete?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: expected JSON, found {error}. The file is damaged; make it again.") from None


def sha256(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(paths: list[Path]) -> str:
    """SHA-256 over the names and contents of files, in the order of their names; read a few at a time."""
    paths = sorted(paths, key=lambda path: path.name)
    total = hashlib.sha256()
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as pool:
        for path, digest in zip(paths, pool.map(sha256, paths), strict=True):
            total.update(path.name.encode() + b"\0" + bytes.fromhex(digest))
    return total.hexdigest()


def digest_json(content: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_lineage(model_dir: Path) -> Lineage | None:
    """What was spent on the model in a directory, or None where nobody recorded it."""
    path = model_dir / LINEAGE_FILE
    return Lineage(**read_json(path)) if path.exists() else None


def spent_on(model_dir: Path) -> Lineage | None:
    """What a model has cost up to now, its sources included, or None where nobody recorded it.

    A model directory says so itself; a run's checkpoint (RUN/checkpoints/step-...) is reckoned from its run.
    """
    run = run_of(model_dir)
    if run is None or not (model_dir / STATE_FILE).is_file():
        return read_lineage(model_dir)
    own = clock_of(model_dir)
    del own["step"]
    before = read_json(run / RUN_FILE)["lineage"]
    if before is not None:
        own = {name: None if before[name] is None else before[name] + cost for name, cost in own.items()}
    return Lineage(source=str(model_dir), digest="", **own)


def run_of(directory: Path) -> Path | None:
    """The run that a directory lies in: the nearest one above with a run.json."""
    above = directory.resolve().parents
    return next((parent for parent in above if (parent / RUN_FILE).is_file()), None) if directory.is_dir() else None


def data_of(run: Path) -> Path | None:
    """The token shards that a run was trained on, where it recorded them."""
    recorded = read_json(run / RUN_FILE).get("data") or {}
    return Path(recorded["path"]) if "path" in recorded else None


def clock_of(checkpoint: Path) -> dict[str, Any]:
    """step, tokens, flops and seconds of a run when it wrote a checkpoint, those of its source left out."""
    state = read_json(checkpoint / STATE_FILE)
    return {name: state[name] for name in ("step", "tokens", "flops", "seconds")}


def write_lineage(model_dir: Path, lineage: Lineage) -> None:
    """Record with a model directory what was spent on it."""
    write_json(model_dir / LINEAGE_FILE, asdict(lineage))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for package in _RECORDED_PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the working tree this file belongs to, with a trailing + where it was changed since."""
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
