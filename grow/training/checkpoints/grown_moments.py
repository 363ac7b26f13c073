"""Adam's state for a grown model, out of the runs' checkpoints that it grows from, whatever ranks wrote those."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from grow.common.errors import GrowthError
from grow.families.build import load_config, model_on_meta
from grow.families.experts import Place, module_places
from grow.families.registry import family_of
from grow.growth.moments import grow_adam_state
from grow.growth.record import GrowthRecord
from grow.training.checkpoints.checkpoint_reader import OPTIMIZER_FILES, STARTS, SavedFragments, require_complete

_FILE_BYTES = 10**9  # held in memory at a time


def grow_moments(sources: Sequence[Path], grown: Path, record: GrowthRecord) -> int:
    """Write the grown moments beside the grown weights, as optimizer shards of a checkpoint.

    Args:
        sources: runs' checkpoints, in the order they were grown from.
        grown: directory of the grown model.
        record: of the growth.

    Returns:
        Steps the sources' optimizers had taken; of several, the fewest.

    Raises:
        GrowthError: a source has no optimizer state.
        CheckpointError: its files are not what was written.
        ConfigError: this growth has no rule for it.
    """
    policy = record.growth.optimizer_state
    updates = [_updates(source, policy) for source in sources]
    reads, places = list(map(_reader, sources, updates)), _places(grown)
    state = grow_adam_state(record.plan, reads, policy, seed=record.growth.seed)
    write_shards(_packed(state, places), grown, OPTIMIZER_FILES)
    return min(updates)


def _packed(state: Iterable[tuple[str, Tensor]], places: Mapping[str, Place]) -> Iterator[tuple[str, str, Tensor]]:
    """The moments of stored tensors put together as the stock module holds them; what a plan lists lies in order."""
    named = ((*key.rpartition("/")[::2], tensor) for key, tensor in state)
    for parameter, own in groupby(named, lambda item: places[item[0]].parameter):
        pieces = defaultdict[str, list[Tensor]](list)
        for _, kind, tensor in own:
            pieces[kind].append(tensor.flatten())
        for kind in ("exp_avg", "exp_avg_sq"):
            yield f"{parameter}/{kind}", parameter, torch.cat(pieces[kind])


def _updates(source: Path, policy: str) -> int:
    if not any(source.glob(OPTIMIZER_FILES)):
        raise GrowthError(
            f"growth.optimizer_state={policy} needs the state of the source's optimizer, and {source} holds none. Give "
            "a run's checkpoint: growth.source=RUN/checkpoints/step-00000500, or growth.optimizer_state=reset."
        )
    return require_complete(source).state.updates


def _reader(source: Path, updates: int) -> Callable[[str], Tensor]:
    """Gives a source's moments by the names of its stored tensors; every step is that of the whole optimizer."""
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
