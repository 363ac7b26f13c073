"""Writes the tensors of a plan: streams source checkpoints into a bigger one, one block of rows at a time."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from grow.common.errors import CheckpointError
from grow.families.tensor_file import TensorInfo
from grow.families.weights import MAX_SHARD_BYTES, WeightReader, files_of, write_file, write_index
from grow.growth.ledger import Ledger
from grow.growth.made_tensors import (
    ExpertTensor,
    GrowthPlan,
    JoinedTensor,
    MadeTensor,
    ReadTensor,
    RouterTensor,
    TensorPlan,
)
from grow.growth.maps import AxisMap
from grow.growth.values import (
    cancelling_noise,
    grown_rows,
    noise_scale,
    random_generator,
    redrawn_units,
    uneven_shares,
)

BLOCK_BYTES = 32 * 2**20
MAX_WORKERS = 8  # by default: each holds a tensor
_HALVES = (torch.bfloat16, torch.float16)


def grown_files(
    plan: GrowthPlan, readers: Sequence[WeightReader], seed: int, max_shard_bytes: int = MAX_SHARD_BYTES
) -> tuple[dict[str, list[TensorInfo]], Callable[[str], Iterator[Tensor]]]:
    """Return what `write_missing_files` writes of a plan: the tensors of each file, and what makes their data.

    One thread makes a whole tensor, so its bits do not depend on the number of threads. Each worker needs memory for
    one or two source tensors and a few blocks; for a tensor joined from several sources, for the whole of it.

    Args:
        plan: The tensors to write.
        readers: Readers of the sources, one for each.
        seed: Seed of everything that is drawn.
        max_shard_bytes: Most bytes of one file.
    """
    files = files_of([tensor.target for tensor in plan.tensors], max_shard_bytes)
    plans = {tensor.target.name: tensor for tensor in plan.tensors}

    def blocks(name: str) -> Iterator[Tensor]:
        return chain.from_iterable(made_tensor(plans[info.name], readers, seed) for info in files[name])

    return files, blocks


def write_missing_files(
    files: Mapping[str, list[TensorInfo]],
    blocks: Callable[[str], Iterator[Tensor]],
    directory: Path,
    ledger: Ledger,
    workers: int | None,
) -> list[str]:
    """Write the weight files of a directory that are not there yet, several at the same time, and their index.

    Args:
        files: Name of each file -> the tensors in it.
        blocks: Makes the data of the tensors of a file, given its name.
        directory: An existing directory.
        ledger: Lists finished files; those that are still as they were written are kept, and new ones are added.
        workers: Files made at the same time; None takes one for each core, up to 8.

    Returns:
        Names of the files that were kept.
    """
    with one_core_each(workers) as pool:
        held = dict(zip(files, pool.map(ledger.holds, files), strict=True))
        missing = [name for name in files if not held[name]]
        running = {pool.submit(write_file, directory / name, files[name], blocks(name)): name for name in missing}
        for future in as_completed(running):
            ledger.add(running[future], future.result())
    write_index(directory, dict(files))
    return [name for name in files if held[name]]


@contextmanager
def one_core_each(workers: int | None) -> Iterator[ThreadPoolExecutor]:
    """Yield threads that compute on one core each; after an error none of them begins another task.

    Args:
        workers: Number of threads; None takes one for each core, up to 8.
    """
    workers = workers or min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)


def made_tensor(plan: MadeTensor, readers: Sequence[WeightReader], seed: int) -> Iterator[Tensor]:
    """Yield the rows of one target tensor, in blocks."""
    if isinstance(plan, TensorPlan):
        yield from grow_tensor(plan, finite(readers[plan.reader]), seed)
    elif isinstance(plan, JoinedTensor):
        yield _joined(plan, readers, seed)
    elif isinstance(plan, RouterTensor):
        yield _router(plan, seed)
    else:
        yield _expert(plan, readers, seed)


def finite(reader: WeightReader) -> ReadTensor:
    """Return a reader of a source's tensors that refuses values that are not finite.

    Raises:
        CheckpointError: such a value is read.
    """

    def read(name: str) -> Tensor:
        tensor = reader.read(name)
        if tensor.is_floating_point() and tensor.numel():
            ends = torch.stack(torch.aminmax(tensor))  # one pass, without a copy
            if not ends.isfinite().all():
                raise _not_finite(reader, name, tensor)
        return tensor

    return read


def _not_finite(reader: WeightReader, name: str, tensor: Tensor) -> CheckpointError:
    wrong = int(tensor.isfinite().logical_not().sum())
    return CheckpointError(
        f"{reader.directory}: {wrong:,} of {tensor.numel():,} values of tensor {name} are not finite. The model had "
        "diverged, or the file is damaged; grow an earlier checkpoint."
    )


def _router(plan: RouterTensor, seed: int) -> Tensor:
    experts, width = plan.target.shape
    generator = random_generator(seed, plan.target.name, 0)
    drawn = torch.randn(experts // plan.repeats, width, generator=generator) * plan.std
    return drawn.repeat_interleave(plan.repeats, dim=0)


def _expert(plan: ExpertTensor, readers: Sequence[WeightReader], seed: int) -> Tensor:
    weight = torch.cat(list(grow_tensor(plan.tensor, finite(readers[plan.tensor.reader]), seed)))
    if weight.dtype in _HALVES and (plan.redrawn or plan.noise):
        weight = weight.float()
    generator = random_generator(seed, plan.target.name, 0)
    if plan.redrawn:
        units = weight if plan.units_are_rows else weight.T
        chosen = redrawn_units(plan.units, len(units), plan.redrawn, seed)
        old = units[chosen]
        drawn = torch.randn(old.shape, generator=generator, dtype=weight.dtype)
        units[chosen] = drawn * old.std() + old.mean()
    if plan.noise:
        weight += torch.randn(weight.shape, generator=generator, dtype=weight.dtype) * (weight.std() * plan.noise)
    return weight


def _joined(plan: JoinedTensor, readers: Sequence[WeightReader], seed: int) -> Tensor:
    whole = torch.zeros(plan.target.shape, dtype=plan.target.dtype)
    for part in plan.parts:
        first = part.row
        for block in grow_tensor(part.tensor, finite(readers[part.tensor.reader]), seed):
            place = whole[first : first + len(block)]
            if whole.dim() == 2:
                place = place[:, part.column : part.column + block.shape[1]]
            place += block
            first += len(block)
    return whole


def grow_tensor(plan: TensorPlan, read: ReadTensor, seed: int) -> Iterator[Tensor]:
    """Yield the rows of one grown tensor, in blocks of about 32 MB.

    Half-precision weights are computed in float32 and rounded once, when they are written. A matrix that is stored
    transposed is made as a whole.

    Args:
        plan: How the tensor grows.
        read: Reads a tensor of the source by its name.
        seed: Seed of everything that is drawn.
    """
    if plan.transposed:
        upright = replace(plan, target=replace(plan.target, shape=plan.target.shape[::-1]), transposed=False)
        yield torch.cat(list(grow_tensor(upright, lambda name: read(name).T, seed))).T
        return
    if plan.zeroed:
        shape = plan.target.shape[1:]
        yield from (torch.full((len(plan.rows.index[block]), *shape), -plan.offset) for block in _blocks(plan))
        return
    if plan.rows.is_identity and (plan.columns is None or plan.columns.is_identity):
        yield read(plan.source)  # nothing has copies, so nothing is shared, drawn or rounded
        return
    weight = _append_means(plan, read(plan.source))
    above = None if plan.above is None else _append_means(plan, read(plan.above))
    rows, columns = (
        _point_to_mean(plan.rows),
        None if plan.columns is None else _point_to_mean(plan.columns, plan.contracts),
    )
    plan = replace(plan, rows=rows, columns=columns)
    new = rows.copy_number > 0
    noise = noise_scale(weight, rows, columns, plan.snr_db) if columns is not None and plan.snr_db is not None else None
    for block in _blocks(plan):
        grown = grown_rows(weight, rows, columns, plan.share, block, contracts=plan.contracts)
        if above is not None:
            taken = grown_rows(above, rows, columns, plan.share, block, contracts=plan.contracts)
            grown[new[block]] = taken[new[block]]
        if plan.offset:  # gain * (stored + offset) - offset
            grown += plan.offset * (rows.expand[block].to(grown) - 1)
        yield grown if columns is None else _break_symmetry(plan, columns, grown, block, noise, seed)


def _break_symmetry(
    plan: TensorPlan, columns: AxisMap, grown: Tensor, block: slice, noise: Tensor | None, seed: int
) -> Tensor:
    """Give the copies of each input in a block their uneven shares and their noise, in place."""
    generator = random_generator(seed, plan.target.name, block.start)
    if plan.share == "uneven":
        grown *= uneven_shares(len(grown), columns, plan.largest_share, generator)
    if noise is not None:
        grown += cancelling_noise(noise[block], columns, generator)
    return grown


def _blocks(plan: TensorPlan) -> list[slice]:
    length = len(plan.rows.index)
    row_bytes = max(plan.target.dtype.itemsize, 4) * (1 if plan.columns is None else len(plan.columns.index))
    step = max(1, BLOCK_BYTES // row_bytes)
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]


def _append_means(plan: TensorPlan, weight: Tensor) -> Tensor:
    """Return a source tensor with the mean of each written axis behind its elements, where fillers hold that mean."""
    if weight.dtype in _HALVES and (plan.columns is not None or plan.rows.averaged or plan.offset):
        weight = weight.float()
    if plan.rows.averaged:
        weight = torch.cat([weight, weight.mean(0, keepdim=True)])
    if plan.columns is not None and plan.columns.averaged and not plan.contracts:
        weight = torch.cat([weight, weight.mean(1, keepdim=True)], dim=1)
    return weight


def _point_to_mean(axis_map: AxisMap, is_read: bool = False) -> AxisMap:
    """Return the map with its fillers pointing to the mean that `_append_means` put behind the elements."""
    if is_read or not axis_map.averaged:
        return axis_map
    return replace(axis_map, index=torch.where(axis_map.filler, axis_map.source_length, axis_map.index))
