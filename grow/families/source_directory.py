"""Where a model lies: a directory, the final model of a run, a file to convert, or a download from the hub."""

from pathlib import Path

from grow.common.errors import CheckpointError
from grow.common.extras import require
from grow.common.files import disk_errors_named
from grow.common.hub import MODEL_FILES, local_or_hub, refuse_missing, refuse_mistyped
from grow.common.locks import lock
from grow.common.printed import say
from grow.common.provenance import RUN_FILE, digest_json
from grow.common.records import read_json

IMPORTED_DIR = Path("data/imported")
"""Where sources of other formats lie as stock directories, each converted once."""
_GGUF = ".gguf"
_PICKLED = ("pytorch_model*.bin", "pytorch_model*.json")


def check_source(source: str) -> None:
    """Refuse the name of a model that can only be a local path and is none; the hub is not asked.

    Raises:
        CheckpointError: it names the nearest directory that exists.
        ConfigError: it is a GGUF file, and the package that reads it is not installed.
    """
    if source.endswith(_GGUF) and Path(source).is_file():
        require("gguf", f"source={source}")
    elif "/" in source:
        refuse_mistyped(source)
    else:  # no hub id of a model, which has an owner
        refuse_missing(source)


def find_source(source: str) -> Path:
    """Return the stock directory of a model, converted first where it is of another format.

    Args:
        source: Model directory; run directory, for its `model/`; GGUF file; directory of pickled .bin weights; or hub
            id (NAME or NAME@REVISION).

    Raises:
        CheckpointError: there is no such directory or hub model, it cannot be converted, or the hub cannot be reached.
        ConfigError: the package that reads its format is not installed.
    """
    path = locate(source)
    if path.is_file() or _needs_import(path):
        return _imported(path, source)
    return path


def locate(source: str) -> Path:
    """Return where a model lies, in whatever format. Raises as `find_source`."""
    check_source(source)
    if source.endswith(_GGUF) and Path(source).is_file():
        return Path(source)
    path = local_or_hub(source, MODEL_FILES)
    if not Path(source).is_dir() and not any(path.glob("*.safetensors")):
        path = local_or_hub(source, (*MODEL_FILES, *_PICKLED))
    path = path / "model" if (path / RUN_FILE).is_file() and (path / "model").is_dir() else path
    _refuse_adapter(path)
    return path


def _refuse_adapter(path: Path) -> None:
    adapter = path / "adapter_config.json"
    if adapter.is_file() and not (path / "config.json").exists():
        content = read_json(adapter)
        base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
        raise CheckpointError(
            f"{path}: expected a whole model, found an adapter{f' of {base}' if base else ''}. Merge it into its base "
            "model first (merge_and_unload of the package peft), and give the directory of the result."
        )


def _needs_import(path: Path) -> bool:
    """Return whether a directory holds weights of another format, and none that can be read as they are."""
    if any(path.glob("*.safetensors")):
        return False
    return any(path.glob("pytorch_model*.bin")) or (not (path / "config.json").exists() and any(path.glob(f"*{_GGUF}")))


def _imported(path: Path, name: str) -> Path:
    """Return the stock directory made of a source; any number of processes may ask, and one of them makes it."""
    from grow.families.checkpoint_import import import_checkpoint  # imports the models' library

    files = sorted([path] if path.is_file() else path.iterdir())
    stamp = digest_json([[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files])
    output = IMPORTED_DIR / f"{path.stem if path.is_file() else path.resolve().name}-{stamp[:8]}"
    with disk_errors_named(output):
        IMPORTED_DIR.mkdir(parents=True, exist_ok=True)
        with lock(IMPORTED_DIR / f".{output.name}.lock", wait=True):
            if not output.is_dir():
                record = import_checkpoint(path, output, name)
                say(f"imported {name} ({record.converted}) into {output}")
    return output
