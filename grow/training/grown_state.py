"""Adam's state for a grown model, out of the run's checkpoint that it grows from, whatever ranks wrote that one."""

import json
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

    files, pending = 0, dict[str, Tensor]()
    for key, tensor in grow_adam_state(record.plan, read, policy, record.renamed):
        if not key.endswith("/step"):
            pending[key] = tensor.float().flatten().contiguous()
        if sum(each.nbytes for each in pending.values()) > _FILE_BYTES:
            files, pending = _write(pending, grown, files), {}
    _write(pending, grown, files)
    return updates


def _write(moments: dict[str, Tensor], directory: Path, number: int) -> int:
    starts = {key.rpartition("/")[0]: 0 for key in moments}
    save_file(moments, directory / f"optimizer-grown-{number:05}.safetensors", metadata={STARTS: json.dumps(starts)})
    return number + 1
