"""Adam's state for a grown model, out of the run's checkpoint that it grows from, whatever ranks wrote that one."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from grow.common.errors import GrowthError
from grow.growth.optimizer_state import grow_adam_state
from grow.growth.run import GrowthRecord
from grow.training.checkpoint import OPTIMIZER_FILES, STARTS, SavedFragments, require_complete

_FILE_BYTES = 10**9  # held in memory at a time


def grow_moments(source: Path, grown: Path, record: GrowthRecord) -> int:
    """Write the grown moments beside the grown weights, as optimizer shards of a checkpoint.

    Args:
        source: a run's checkpoint.
        grown: directory of the grown model.
        record: of the growth.

    Returns:
        Steps the source's optimizer had taken.

    Raises:
        GrowthError: the source has no optimizer state.
        CheckpointError: its files are not what was written.
        ConfigError: this growth has no rule for it.
    """
    policy = record.growth.optimizer_state
    if not any(source.glob(OPTIMIZER_FILES)):
        raise GrowthError(
            f"growth.optimizer_state={policy} needs the state of the source's optimizer, and {source} holds none. Give "
            "a run's checkpoint: growth.source=RUN/checkpoints/step-00000500, or growth.optimizer_state=reset."
        )
    updates, saved = require_complete(source).state.updates, SavedFragments(source, OPTIMIZER_FILES)

    def read(key: str) -> Tensor:
        return torch.tensor(float(updates)) if key.endswith("/step") else saved.whole(key)

    state = grow_adam_state(record.plan, read, policy, record.renamed)
    moments = ((key, key.rpartition("/")[0], tensor) for key, tensor in state if not key.endswith("/step"))
    write_shards(moments, grown, OPTIMIZER_FILES)
    return updates


def write_shards(items: Iterable[tuple[str, str, Tensor]], directory: Path, files: str) -> None:
    """Write what `SavedFragments` reads, whole parameters at a time.

    Args:
        items: key, parameter it is of, and values.
        directory: to write into.
        files: pattern of the shards.
    """
    for number, (tensors, starts) in enumerate(_by_file(items)):
        path = directory / files.replace("*", f"grown-{number:05}")
        save_file(tensors, path, metadata={STARTS: json.dumps(starts)})


def _by_file(items: Iterable[tuple[str, str, Tensor]]) -> Iterator[tuple[dict[str, Tensor], dict[str, int]]]:
    tensors, starts = dict[str, Tensor](), dict[str, int]()
    for key, parameter, tensor in items:
        tensors[key], starts[parameter] = tensor.float().flatten().contiguous(), 0
        if sum(each.nbytes for each in tensors.values()) > _FILE_BYTES:
            yield tensors, starts
            tensors, starts = {}, {}
    yield tensors, starts
