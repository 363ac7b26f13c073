"""How large a checkpoint is, for the check of the disk's space and for the estimate."""

from grow.averaging.cadence import AveragingPlan

PARAMETER_BYTES = 12
"""A float32 weight and its two moments."""


def checkpoint_bytes(parameters: int, averaging: AveragingPlan | None, snapshots: int | None = None) -> int:
    """Return the bytes of one checkpoint on disk, headers aside.

    Args:
        parameters: Parameters of the model.
        averaging: Averaging of the run, whose window or total is saved with it; None where nothing is averaged.
        snapshots: Snapshots taken so far; None reckons with a full window.
    """
    window = 0 if averaging is None else averaging.held_bytes(parameters, snapshots)
    return PARAMETER_BYTES * parameters + window
