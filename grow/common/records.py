"""The boundary between files and the program: JSON from disk becomes a typed record, or a clear error.

A reader declares the keys that it needs as a dataclass, the record. Types are checked strictly, by pydantic. Keys that
the record does not name are left alone: a later version, or another reader, knows them.
"""

import functools
import json
import reprlib
from pathlib import Path
from typing import Any, TypeVar

from grow.common.errors import CheckpointError, GrowError

Record = TypeVar("Record")
DAMAGED = "The file is damaged, or another program wrote it; make it again."
_FAULTS_SHOWN = 3


def read_record(path: Path, kind: type[Record]) -> Record:
    """Read a JSON file as a record.

    Args:
        path: File to read.
        kind: Dataclass, or another type of JSON values.

    Raises:
        CheckpointError: the file is missing, cannot be read, or holds something else; it says where and what.
    """
    return parse_record(_content(path), kind, str(path))


def parse_record(
    raw: bytes, kind: type[Record], where: str, *, error: type[GrowError] = CheckpointError, advice: str = DAMAGED
) -> Record:
    """Parse JSON as a record.

    Args:
        raw: The JSON.
        kind: Dataclass, or another type of JSON values.
        where: File, or line of a file, that the error names.
        error: Error that is raised.
        advice: Last sentence of the error: what to do.
    """
    from pydantic import ValidationError  # here, because help pages do not need it

    try:
        return _parser(kind).validate_json(raw, strict=True)  # type: ignore[arg-type]  # types are hashable
    except ValidationError as fault:
        shown = [_described(dict(each)) for each in fault.errors(include_url=False)[:_FAULTS_SHOWN]]
        raise error(f"{where}: {'; '.join(shown)}. {advice}") from None


def read_object(path: Path, needed: type | None = None) -> dict[str, Any]:
    """Read a whole JSON object whose keys are not all known.

    Args:
        path: File to read.
        needed: Record of the keys that the caller takes from it.

    Raises:
        CheckpointError: as `read_record`.
    """
    content = read_json(path)
    check(content, dict[str, Any], str(path))
    if needed is not None:
        check(content, needed, str(path))
    return content


def check(content: Any, kind: type[Record], where: str) -> Record:
    """Return a JSON value as a record, with the errors of `parse_record`."""
    return parse_record(json.dumps(content).encode(), kind, where)


def read_json(path: Path) -> Any:
    """Read any JSON file.

    Raises:
        CheckpointError: the file is missing, cannot be read, or is not JSON.
    """
    try:
        return json.loads(_content(path))
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8, and numbers of thousands of digits
        raise CheckpointError(f"{path}: expected JSON, found {error}. {DAMAGED}") from None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: expected this file, found none. Is the directory complete?") from None
    except OSError as error:
        raise CheckpointError(
            f"{path}: expected a file that can be read, found {error.strerror}. Check what lies there, and its owner."
        ) from None


@functools.cache
def _parser(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _described(fault: dict[str, Any]) -> str:
    """Say in a few words what one fault of a record is."""
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing":
        return f"expected the key {key!r}, found none"
    if fault["type"] == "json_invalid":
        return f"expected JSON, found {fault['msg'].removeprefix('Invalid JSON: ')}"
    expected = fault["msg"].removeprefix("Input should be ")
    return f"expected {expected}{f' for {key!r}' if key else ''}, found {reprlib.repr(fault['input'])}"
