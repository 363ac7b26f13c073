"""Executes a plan: streams a source checkpoint into a bigger one, block of rows by block of rows."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from grow.families.weights import MAX_SHARD_BYTES, WeightReader, files_of, write_file, write_index
from grow.growth.ledger import Progress
from grow.growth.made_tensors import ExpertTensor, GrowthPlan, JoinedTensor, MadeTensor, RouterTensor, TensorPlan
from grow.growth.maps import AxisMap
from grow.growth.values import (
    cancelling_noise,
    gather,
    noise_scale,
    random_generator,
    redrawn_units,
    scale_,
    shares,
    uneven_shares,
)

BLOCK_BYTES = 32 * 2**20
MAX_WORKERS = 8  # by default: each holds a tensor
_HALVES = (torch.bfloat16, torch.float16)


def write_grown_weights(
    plan: GrowthPlan,
    readers: Sequence[WeightReader],
    directory: Path,
    *,
    seed: int,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    workers: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write every tensor of a plan into a directory, several files at a time.

    A tensor is made by one thread whatever their number, so that its bits do not depend on it. Peak memory is, for each
    worker, a source tensor or two and a few blocks; of a tensor joined from several sources, the whole of it.

    Args:
        plan: what to write.
        readers: one for each source.
        directory: an existing one.
        seed: of what is drawn.
        max_shard_bytes: most bytes of one file.
        workers: files made at a time; None takes a core each, up to 8.
        progress: finished files, which are kept where they still are what was written; it is told of new ones.
    """
    files = files_of([tensor.target for tensor in plan.tensors], max_shard_bytes)
    plans = {tensor.target.name: tensor for tensor in plan.tensors}

    def make(name: str) -> str:
        if progress is not None and progress.holds(name):
            return progress.files[name]
        blocks = (block for info in files[name] for block in made_tensor(plans[info.name], readers, seed))
        return write_file(directory / name, files[name], blocks)

    for name, digest in _at_once(make, files, workers or min(len(os.sched_getaffinity(0)), MAX_WORKERS)):
        if progress is not None:
            progress.add(name, digest)
    write_index(directory, files)


def _at_once(task: Callable[[str], str], names: Iterable[str], workers: int) -> Iterator[tuple[str, str]]:
    """Each name with its result, as they come; after an error nothing more is begun."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(task, name): name for name in names}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            torch.set_num_threads(threads)


def made_tensor(plan: MadeTensor, readers: Sequence[WeightReader], seed: int) -> Iterator[Tensor]:
    """The rows of one target tensor, in blocks."""
    if isinstance(plan, TensorPlan):
        yield from grow_tensor(plan, readers[plan.reader].read, seed)
    elif isinstance(plan, JoinedTensor):
        yield _joined(plan, readers, seed)
    elif isinstance(plan, RouterTensor):
        yield _router(plan, seed)
    else:
        yield _expert(plan, readers, seed)


def _router(plan: RouterTensor, seed: int) -> Tensor:
    experts, width = plan.target.shape
    generator = random_generator(seed, plan.target.name, 0)
    drawn = torch.randn(experts // plan.repeats, width, generator=generator) * plan.deviation
    return drawn.repeat_interleave(plan.repeats, dim=0)


def _expert(plan: ExpertTensor, readers: Sequence[WeightReader], seed: int) -> Tensor:
    weight = torch.cat(list(grow_tensor(plan.tensor, readers[plan.tensor.reader].read, seed)))
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
        for block in grow_tensor(part.tensor, readers[part.tensor.reader].read, seed):
            place = whole[first : first + len(block)]
            if whole.dim() == 2:
                place = place[:, part.column : part.column + block.shape[1]]
            place += block
            first += len(block)
    return whole


def grow_tensor(plan: TensorPlan, read: Callable[[str], Tensor], seed: int) -> Iterator[Tensor]:
    """The rows of one grown tensor, in blocks of about 32 MB; `read` gives the source's tensors by name.

    Half-precision weights are computed in float32 and rounded once, when they are written.
    """
    if plan.zeroed:
        yield from (torch.zeros(_rows(plan, block), *plan.target.shape[1:]) for block in _blocks(plan))
        return
    if plan.rows.is_identity and (plan.columns is None or plan.columns.is_identity):
        yield read(plan.source)  # nothing has copies, so nothing is shared, drawn or rounded
        return
    weight = _with_means(plan, read(plan.source))
    above = None if plan.above is None else _with_means(plan, read(plan.above))
    rows, columns = _with_mean(plan.rows), None if plan.columns is None else _with_mean(plan.columns, plan.contracts)
    plan = replace(plan, rows=rows, columns=columns)
    new = rows.copy_number > 0
    noise = noise_scale(weight, rows, columns, plan.snr_db) if columns is not None and plan.snr_db is not None else None
    for block in _blocks(plan):
        grown = _gathered(plan, weight, block)
        if above is not None:
            grown[new[block]] = _gathered(plan, above, block)[new[block]]
        yield grown if columns is None else _break_symmetry(plan, columns, grown, block, noise, seed)


def _break_symmetry(
    plan: TensorPlan, columns: AxisMap, grown: Tensor, block: slice, noise: Tensor | None, seed: int
) -> Tensor:
    """A block whose copies of an input carry what the settings give them; in place."""
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


def _rows(plan: TensorPlan, block: slice) -> int:
    return len(plan.rows.index[block])


def _with_means(plan: TensorPlan, weight: Tensor) -> Tensor:
    """A source tensor, with the mean of each written axis behind its elements where fillers want it."""
    if weight.dtype in _HALVES and (plan.columns is not None or plan.rows.averaged):
        weight = weight.float()
    if plan.rows.averaged:
        weight = torch.cat([weight, weight.mean(0, keepdim=True)])
    if plan.columns is not None and plan.columns.averaged and not plan.contracts:
        weight = torch.cat([weight, weight.mean(1, keepdim=True)], dim=1)
    return weight


def _with_mean(axis_map: AxisMap, is_read: bool = False) -> AxisMap:
    """The map with its fillers pointing to the mean that `_with_means` put behind the elements."""
    if is_read or not axis_map.averaged:
        return axis_map
    return replace(axis_map, index=torch.where(axis_map.filler, axis_map.source_length, axis_map.index))


def _gathered(plan: TensorPlan, weight: Tensor, block: slice) -> Tensor:
    rows, columns = plan.rows, plan.columns
    gain = rows.expand[block].to(weight)
    if columns is None:
        return weight[rows.index[block]] * gain
    if not plan.contracts:
        return scale_(gather(weight, rows.index[block], columns.index), gain, columns.expand.to(weight))
    return shares(weight, rows, columns, plan.share, block)
