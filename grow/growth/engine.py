"""Executes a plan: streams a source checkpoint into a bigger one, block of rows by block of rows."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from grow.families.weights import MAX_SHARD_BYTES, WeightReader, write_weights
from grow.growth.plan import GrowthPlan, TensorPlan
from grow.growth.values import cancelling_noise, gather, noise_generator, noise_scale, scale_, shares

BLOCK_BYTES = 32 * 2**20


def write_grown_weights(
    plan: GrowthPlan, reader: WeightReader, directory: Path, *, seed: int, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write every tensor of a plan into a directory; peak memory is one source tensor and a few blocks."""
    tensors = [tensor.target for tensor in plan.tensors]
    blocks = (block for tensor in plan.tensors for block in grow_tensor(tensor, reader.read(tensor.source), seed))
    write_weights(directory, tensors, blocks, max_shard_bytes)


def grow_tensor(plan: TensorPlan, weight: Tensor, seed: int) -> Iterator[Tensor]:
    """The rows of one grown tensor, in blocks of about 32 MB.

    Half-precision weights are computed in float32 and rounded once, when they are written.
    """
    if weight.dtype in (torch.bfloat16, torch.float16) and plan.columns is not None:
        weight = weight.float()
    if plan.columns is None:
        yield weight[plan.rows.index] * plan.rows.expand.to(weight)
        return
    row_bytes = len(plan.columns.index) * weight.element_size()
    step = max(1, BLOCK_BYTES // row_bytes)
    noise = None if plan.snr_db is None else noise_scale(weight, plan.rows, plan.columns, plan.snr_db)
    for start in range(0, len(plan.rows.index), step):
        block = slice(start, start + step)
        grown = _block(plan, weight, block)
        if noise is not None:
            generator = noise_generator(seed, plan.target.name, start)
            grown += cancelling_noise(noise[block], plan.columns, generator)
        yield grown


def _block(plan: TensorPlan, weight: Tensor, block: slice) -> Tensor:
    assert plan.columns is not None
    if plan.contracts:
        return shares(weight, plan.rows, plan.columns, plan.share, block)
    grown = gather(weight, plan.rows.index[block], plan.columns.index)
    return scale_(grown, plan.rows.expand[block].to(weight), plan.columns.expand.to(weight))
