"""The average of checkpoints on disk: checkpoints in, one stock directory out, streamed block by block.

The arithmetic is that of averages during a run, so an average of a run's checkpoints equals the run's own.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grow.averaging.arithmetic import chunks, combine, finite, rounded
from grow.averaging.model_files import copy_model_files
from grow.averaging.settings import WINDOWS, AveragingSettings
from grow.averaging.sources import Source, files_of, find_sources
from grow.averaging.weighting import Weighting, weighting
from grow.common.errors import CheckpointError, ConfigError
from grow.common.files import new_directory
from grow.common.provenance import digest_files, spent_on, write_lineage, write_record
from grow.families.tensor_file import TensorInfo
from grow.families.weights import SINGLE_FILE, write_weights

AVERAGE_FILE = "average.json"
_SHARD = re.compile(r"-\d+-of-\d+")
_BLOCK = 2**19  # elements read from each checkpoint at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class AverageRecord:
    """The checkpoints that were averaged and their weights; the content of average.json."""

    averaging: dict[str, Any]
    sources: list[dict[str, Any]]
    """Label, step, SHA-256 over the weight files and share of each, oldest first."""
    averaged: int
    """Number of tensors that are averages."""
    copied: list[str]
    """Tensors copied from the newest checkpoint: integer tensors are not averaged."""


def average_checkpoints(checkpoints: Sequence[str], settings: AveragingSettings, output: Path) -> AverageRecord:
    """Average checkpoints into a new directory: weights, the newest's configuration and tokenizer, average.json.

    Each tensor keeps its dtype. Memory holds one block of each checkpoint at a time.

    Args:
        checkpoints: Names of checkpoints, as `find_sources` takes them.
        settings: Kind of averaging; kinds with a window take the newest k. `horizon`, `start_*` and `storage` are
            ignored.
        output: Directory to make.

    Raises:
        CheckpointError: checkpoints are missing, damaged, or of different models, or the output cannot be written.
        ConfigError: there are too few checkpoints.
    """
    sources = select(find_sources(checkpoints), settings)
    tensors = common_tensors(sources)
    weights = weighting(settings, len(sources))
    with new_directory(output, sum(info.bytes for info in tensors)) as partial, ThreadPoolExecutor(4) as hashing:
        digests = hashing.map(lambda source: digest_files(source.reader.files), sources)  # while the average is made
        blocks = (block for info in tensors for block in average_tensor(info, sources, weights))
        _write(partial, sources[-1], tensors, blocks)
        record = _record(settings, sources, weights, tensors, list(digests))
        write_record(partial / AVERAGE_FILE, asdict(record))
    return record


def select(sources: list[Source], settings: AveragingSettings) -> list[Source]:
    """Choose the checkpoints to average, oldest first: at multiples of `every_steps` if set, then the newest k.

    Raises:
        ConfigError: there are fewer than `min_snapshots`, or k.
    """
    chosen = sources
    if settings.every_steps is not None:
        chosen = [source for source in sources if source.step is not None and source.step % settings.every_steps == 0]
    window = settings.k if settings.kind in WINDOWS else None
    needed = settings.min_snapshots or window or 1
    if len(chosen) < needed:
        every = f" at multiples of averaging.every_steps={settings.every_steps}" if settings.every_steps else ""
        raise ConfigError(
            f"averaging={settings.name}: expected at least {needed} checkpoints{every}, found {len(chosen)} of "
            f"{len(sources)} (steps {', '.join(str(source.step) for source in sources)}). Name more of them, lower "
            "averaging.k, or allow fewer with averaging.min_snapshots."
        )
    return chosen[-window:] if window else chosen


def common_tensors(sources: Sequence[Source], *, any_dtype: bool = False) -> list[TensorInfo]:
    """Return the tensors of the newest checkpoint, the last one, after comparing them with those of every other.

    Args:
        sources: Checkpoints, oldest first.
        any_dtype: Whether floating-point tensors of one shape may have different dtypes.

    Raises:
        CheckpointError: a tensor is missing, or has another shape or dtype; it is named, with both checkpoints.
    """
    newest = sources[-1]
    for source in sources[:-1]:
        for name in sorted(newest.stored_as.keys() | source.stored_as.keys()):
            newest_tensor, other_tensor = (_describe(each, name, any_dtype) for each in (newest, source))
            if newest_tensor != other_tensor:
                raise CheckpointError(
                    f"tensor {name}: {newest_tensor} in {newest.label}, {other_tensor} in {source.label}. Only "
                    f"checkpoints of one model{'' if any_dtype else ', in one dtype,'} can be combined."
                )
    return [newest.info(name) for name in newest.stored_as]


def _describe(source: Source, name: str, any_dtype: bool) -> str:
    if name not in source.stored_as:
        return "missing"
    info = source.info(name)
    if any_dtype and info.dtype.is_floating_point:
        return f"{tuple(info.shape)}"
    return f"{tuple(info.shape)} {str(info.dtype).removeprefix('torch.')}"


def average_tensor(info: TensorInfo, sources: Sequence[Source], weights: Weighting) -> Iterator[Tensor]:
    """Yield one averaged tensor as flat blocks in its dtype, rounded once; integer tensors are the newest's.

    Raises:
        CheckpointError: a value is not finite.
    """
    for block in chunks(prod(info.shape), _BLOCK):
        if not info.dtype.is_floating_point:
            yield sources[-1].read(info.name, block)
            continue
        parts = [source.read(info.name, block) for source in sources]
        out = torch.empty(len(parts[-1]), dtype=info.dtype)
        for chunk in chunks(len(out)):
            out[chunk] = rounded(combine((part[chunk] for part in parts), weights), info.dtype)
        if not finite([out]):  # a value that is not finite in one checkpoint is not finite in the sum
            raise not_finite(info.name, parts, sources)
        yield out


def not_finite(name: str, parts: Sequence[Tensor], sources: Sequence[Source]) -> CheckpointError:
    """Return the error that names the checkpoints in which a block of a tensor is not finite."""
    found = [source.label for source, part in zip(sources, parts, strict=True) if not finite([part])]
    return CheckpointError(
        f"{', '.join(found)}: tensor {name} holds values that are not finite. The run had diverged there; leave out "
        "such checkpoints."
    )


def _write(directory: Path, newest: Source, tensors: list[TensorInfo], blocks: Iterator[Tensor]) -> None:
    """Write the weights under the file name of the newest checkpoint, and copy its other files."""
    names = [] if newest.directory is None else [path.name for path in files_of(newest.directory)]
    if not names or names[0].startswith("model"):
        write_weights(directory, tensors, blocks)
    else:
        write_weights(directory, tensors, blocks, max_shard_bytes=sum(info.bytes for info in tensors))
        (directory / SINGLE_FILE).rename(directory / _SHARD.sub("", names[0]))
    if newest.directory is not None:
        copy_model_files(newest.directory, directory)
        lineage = spent_on(newest.directory)
        if lineage is not None:
            digest = digest_files(files_of(directory))
            write_lineage(directory, replace(lineage, source=newest.label, digest=digest))


def _record(
    settings: AveragingSettings,
    sources: Sequence[Source],
    weights: Weighting,
    tensors: Sequence[TensorInfo],
    digests: Sequence[str],
) -> AverageRecord:
    copied = [info.name for info in tensors if not info.dtype.is_floating_point]
    return AverageRecord(
        averaging=asdict(settings),
        sources=[
            {"source": source.label, "step": source.step, "digest": digest, "share": share}
            for source, digest, share in zip(sources, digests, weights.shares, strict=True)
        ],
        averaged=len(tensors) - len(copied),
        copied=copied,
    )
