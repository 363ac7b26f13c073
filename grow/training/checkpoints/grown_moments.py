"""Grows Adam's state out of runs' checkpoints, whatever ranks wrote those, for the grown model to start with."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from grow.common.errors import GrowthError
from grow.families.build import load_config, model_on_meta
from grow.families.experts import Place, module_places
from grow.families.registry import family_of
from grow.growth.made_tensors import ReadTensor
from grow.growth.moments import grow_adam_state
from grow.growth.record import GrowthRecord
from grow.training.checkpoints.checkpoint_reader import OPTIMIZER_FILES, STARTS, SavedFragments, require_complete

_FILE_BYTES = 10**9  # held in memory at a time


def grow_moments(sources: Sequence[Path], grown: Path, record: GrowthRecord, output: Path) -> int:
    """Write the grown moments as optimizer shards of a checkpoint.

    Args:
        sources: Checkpoints of runs, in the order in which they were grown.
        grown: Directory of the grown model.
        record: Record of the growth.
        output: Directory to write into; it is made if need be.

    Returns:
        Steps that the sources' optimizers had taken; the fewest where there are several.

    Raises:
        GrowthError: a source has no optimizer state.
        CheckpointError: a source's files are not as they were written.
        ConfigError: this growth has no rule for optimizer state.
    """
    policy = record.growth.optimizer_state
    updates = [_updates(source, policy) for source in sources]
    reads, places = list(map(_reader, sources, updates)), _places(grown)
    state = grow_adam_state(record.plan, reads, policy, seed=record.growth.seed)
    write_shards(_packed(state, places), output, OPTIMIZER_FILES)
    return min(updates)


def _packed(state: Iterable[tuple[str, Tensor]], places: Mapping[str, Place]) -> Iterator[tuple[str, str, Tensor]]:
    """Yield the moments of stored tensors packed as the stock module holds them: key, parameter, values.

    A plan lists the stored tensors of one parameter in the order in which they lie in it.
    """
    named = ((*key.rpartition("/")[::2], tensor) for key, tensor in state)
    for parameter, own in groupby(named, lambda item: places[item[0]].parameter):
        pieces = defaultdict[str, list[Tensor]](list)
        for _, kind, tensor in own:
            pieces[kind].append(tensor.flatten())
        for kind in ("exp_avg", "exp_avg_sq"):
            yield f"{parameter}/{kind}", parameter, torch.cat(pieces[kind])


def _updates(source: Path, policy: str) -> int:
    """Return the steps that a source's optimizer had taken; refuse a source that holds no optimizer state."""
    if not any(source.glob(OPTIMIZER_FILES)):
        raise GrowthError(
            f"growth.optimizer_state={policy} needs the state of the source's optimizer, and {source} holds none. Give "
            "a run's checkpoint: growth.source=RUN/checkpoints/step-00000500, or growth.optimizer_state=reset."
        )
    return require_complete(source).state.updates


def _reader(source: Path, updates: int) -> ReadTensor:
    """Return a reader of a source's moments by the names of its stored tensors; each has the whole optimizer's step."""
    saved, places = SavedFragments(source, OPTIMIZER_FILES), _places(source)

    def read(key: str) -> Tensor:
        name, _, kind = key.rpartition("/")
        if kind == "step":
            return torch.tensor(float(updates))
        elements = places[name].elements
        moment = torch.empty(elements.stop - elements.start)
        saved.read(f"{places[name].parameter}/{kind}", elements.start, moment)
        return moment

    return read


def _places(directory: Path) -> dict[str, Place]:
    config = load_config(directory)
    return module_places(family_of(config.model_type), model_on_meta(config))


def write_shards(items: Iterable[tuple[str, str, Tensor]], directory: Path, files: str) -> None:
    """Write shards that `SavedFragments` reads, whole parameters at a time.

    Args:
        items: Key of a tensor, name of the parameter that it belongs to, and values.
        directory: Directory to write into; it is made if need be.
        files: Pattern of the shards' names.
    """
    directory.mkdir(parents=True, exist_ok=True)
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
