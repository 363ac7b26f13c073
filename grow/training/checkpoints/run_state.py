"""state.json of a checkpoint: the state of a run besides its tensors, in a numbered format that is read for ever.

format 1    Grow 0.1.0 before the formats had numbers
format 2    the same, and `format`

A change of the fields is a new format: raise FORMAT, add a line above, teach `read_state` to read the one before, and
keep a checkpoint of it with tests/training/formats/make.py.
"""

from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from grow.common.errors import CheckpointError
from grow.common.provenance import STATE_FILE, write_json
from grow.common.records import read_json

FORMAT = 2
PERMANENT, ROLLING, PREEMPTION = "permanent", "rolling", "preemption"


@dataclass(kw_only=True, slots=True)
class RunState:
    """State of a run besides its tensors; the content of state.json."""

    kind: str
    """permanent: kept for good; rolling: kept until newer ones exist; preemption: kept until the next of any kind."""
    step: int
    tokens: int
    seconds: float
    flops: int
    sequences: int
    """Sequences that all ranks together have read."""
    updates: int
    """Steps that the optimizer has taken; steps skipped for a gradient that is not finite do not count."""
    metrics_bytes: int
    """Length of metrics.jsonl; later rows are cut off when the run continues from here."""
    skipped: int = 0
    """Steps skipped so far."""
    updates_of_groups: list[int] = field(default_factory=list)
    """Updates of each optimizer group where some steps do not train all groups, else empty."""
    input_copies: dict[str, float] = field(default_factory=dict)
    """Number of copies that a growth made of a weight's inputs, by weight."""
    average: dict[str, Any] | None = None
    """State of the average of the weights besides its snapshots."""


def write_state(checkpoint: Path, state: RunState) -> None:
    """Write state.json of a checkpoint's directory, in the newest format."""
    write_json(checkpoint / STATE_FILE, {"format": FORMAT, **asdict(state)})


def read_state(checkpoint: Path) -> RunState:
    """Read state.json of a checkpoint's directory, in any format.

    Raises:
        CheckpointError: it is missing or damaged, or another version of Grow wrote it.
    """
    path = checkpoint / STATE_FILE
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected what a checkpoint holds, found {type(content).__name__}.")
    number = content.pop("format", 1)
    if number not in range(1, FORMAT + 1):
        raise CheckpointError(
            f"{path}: expected a checkpoint of format 1 to {FORMAT}, found format {number!r}. Another version of Grow "
            "wrote it: continue with that version."
        )
    wrong = _differences(content)
    if wrong:
        raise CheckpointError(
            f"{path}: expected the fields of format {number}, but {', '.join(wrong)}. Another version of Grow wrote "
            "it: continue with that version."
        )
    return RunState(**content)


def _differences(content: dict[str, Any]) -> list[str]:
    """Return what distinguishes a JSON object from a state: fields it lacks, does not know, or has of another type."""
    known = {each.name: each for each in fields(RunState)}
    optional = {name for name, each in known.items() if (each.default, each.default_factory) != (MISSING, MISSING)}
    return [
        *(f"{name} is missing" for name in known if name not in content.keys() | optional),
        *(f"{name} is not known" for name in content if name not in known),
        *(
            f"{name} is {value!r}"
            for name, value in content.items()
            if name in known and not _is_of(known[name].type, value)
        ),
    ]


def _is_of(expected: Any, value: Any) -> bool:
    """Return whether a value from JSON is of an annotation's type; the items of lists and dicts are not looked at."""
    if isinstance(expected, UnionType):
        return any(_is_of(each, value) for each in get_args(expected))
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if expected is float else get_origin(expected) or expected)
