"""Grows the averaging window out of a run's checkpoint, whatever ranks wrote it, for the grown run to start with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from grow.common.errors import GrowthError
from grow.families.weights import WeightReader
from grow.growth.made_tensors import ReadTensor
from grow.growth.record import GrowthRecord
from grow.growth.snapshots import grow_snapshots
from grow.training.checkpoints.checkpoint_reader import SavedFragments, require_complete
from grow.training.checkpoints.grown_moments import write_shards
from grow.training.checkpoints.integrity import AVERAGE_FILES, window_files


def grow_window(source: Path, grown: Path, record: GrowthRecord, output: Path) -> dict[str, Any]:
    """Write the grown snapshots as average shards of a checkpoint.

    Args:
        source: Checkpoint of a run.
        grown: Directory of the grown model.
        record: Record of the growth.
        output: Directory to write into; it is made if need be.

    Returns:
        The state of the average. Its steps count back from the growth, which is the grown run's step 0.

    Raises:
        GrowthError: the source has no window.
        CheckpointError: the source's files are not as they were written.
        ConfigError: this growth has no rule for snapshots.
    """
    state = require_complete(source).state if any(source.glob(AVERAGE_FILES)) else None
    if state is None or state.average is None or not state.average["steps"] or not window_files(source):
        raise GrowthError(
            f"averaging.on_growth=map needs the snapshots of the source's window, and {source} holds none. Give a "
            "checkpoint of a run with averaging=lawa or wsm, growth.source=RUN/checkpoints/step-00000500, or "
            "averaging.on_growth=reset."
        )
    steps = state.average["steps"]
    write_shards(_snapshots(source, grown, record, steps, state.step), output, AVERAGE_FILES)
    back = {"steps": [step - state.step for step in steps], "last_step": steps[-1] - state.step, "skipped": 0}
    return {**state.average, **back}


def _snapshots(
    source: Path, grown: Path, record: GrowthRecord, steps: list[int], taken_at: int
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield key, parameter and values of every grown tensor of every snapshot."""
    saved, weights = SavedFragments(source, AVERAGE_FILES), WeightReader(source)

    def snapshot(step: int) -> ReadTensor:
        def read(name: str) -> Tensor:
            whole = saved.whole(f"snapshot-{step}/{record.renamed.get(name, name)}")
            return whole.view(weights.info(name).shape)

        return read

    readers, grown_weights = [snapshot(step) for step in steps], WeightReader(grown)
    for name, tensors in grow_snapshots(record.plan, readers, weights.read, grown_weights.read, record.growth.seed):
        parameter = record.renamed.get(name, name)
        for step, tensor in zip(steps, tensors, strict=True):
            yield f"snapshot-{step - taken_at}/{parameter}", parameter, tensor
