"""The boundary between files and the program: JSON from disk becomes a typed record, or a clear error.

A reader declares the keys that it needs as a dataclass, the record. Types are checked strictly, by pydantic. Keys that
the record does not name are left alone: a later version, or another reader, knows them.
"""

import functools
import json
import re
import reprlib
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from grow.common.errors import CheckpointError, GrowError

Record = TypeVar("Record")
DAMAGED = "The file is damaged, or another program wrote it; make it again."
_FAULTS_SHOWN = 3
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # as JSON escapes it
_DISGUISE = {code: code + 0x100000 for code in range(0xD800, 0xE000)}  # to a plane for private use
_UNDISGUISE = {hidden: code for code, hidden in _DISGUISE.items()}


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
        return _validated(raw, kind)
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


def _validated(raw: bytes, kind: type[Record]) -> Record:
    """Parse JSON; lone surrogates, of file names that are not UTF-8, pass in disguise: pydantic refuses them."""
    from pydantic import ValidationError

    parser = _parser(kind)  # type: ignore[arg-type]  # types are hashable
    try:
        return parser.validate_json(raw, strict=True)
    except ValidationError:
        if not _SURROGATE.search(raw):
            raise
        try:
            text = json.dumps(json.loads(raw), ensure_ascii=False)
        except (ValueError, RecursionError):
            text = ""
        disguised = text.translate(_DISGUISE)
        if disguised == text:
            raise
    return _undisguised(parser.validate_json(disguised.encode(), strict=True))


def _undisguised(value: Any) -> Any:
    """Return a record with its lone surrogates back in place."""
    if isinstance(value, str):
        return value.translate(_UNDISGUISE)
    if isinstance(value, list):
        return [_undisguised(item) for item in value]
    if isinstance(value, dict):
        return {_undisguised(key): _undisguised(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _undisguised(getattr(value, each.name)) for each in fields(value)})
    return value


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
