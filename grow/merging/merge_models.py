"""Merges models on disk: a base and models tuned from it in, one stock directory out, streamed block by block.

    theta = theta_0 + scale * combine_t( w_t * elect( thin( theta_t - theta_0 ) ) )

All is computed in float64 and rounded once, to the base's dtype. The bits depend on the values of the sources and on
the settings: not on workers, sizes of files, the order of tensors in them, or dtypes that hold the same values.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from grow.averaging.model_files import copy_model_files
from grow.averaging.offline import common_tensors
from grow.averaging.sources import open_model
from grow.common.files import continued_directory
from grow.common.provenance import digest_files, git_commit, versions, write_lineage, write_record
from grow.families.weights import MAX_SHARD_BYTES, files_of
from grow.growth.ledger import LEDGER_FILE, open_ledger
from grow.growth.tensor_writer import one_core_each, write_missing_files
from grow.merging.ancestry import is_descendant, merged_lineage, refuse_other_vocabularies, refuse_unrelated
from grow.merging.merged_tensor import Merge
from grow.merging.settings import GEOMETRIC, MergingSettings
from grow.merging.survey import survey

MERGE_FILE = "merge.json"
LOUD_NOISE = 0.5
"""Relative noise of random thinning above which a merge warns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeRecord:
    """What was merged, and what was kept of it; the content of merge.json."""

    merging: dict[str, Any]
    base: dict[str, str] | None
    """Label and SHA-256 over the weight files."""
    models: list[dict[str, Any]]
    """Of each: label, SHA-256, weight, `delta` |theta_t - theta_0| / |theta_0| (the model's own norm over the first's
    where weights are merged), `noise` that random thinning adds to it, cosine with the base, recorded descent."""
    kept: dict[str, list[int]]
    """Tensor -> elements kept of each model."""
    copied: list[str]
    """Tensors of whole numbers, copied from the base."""
    continued: str | None
    """What became of an earlier try; None where there was none."""


def merge_models(
    base: str | None,
    models: Sequence[str],
    settings: MergingSettings,
    output: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    workers: int | None = None,
) -> MergeRecord:
    """Merge models into a new directory: weights, the base's configuration and tokenizer, lineage.json, merge.json.

    The same call continues a merge that was killed. Memory holds a block of each model for each worker.

    Args:
        base: Model that all were tuned from; None where `settings.of` is weights.
        models: Models, as `open_model` takes them.
        settings: How to merge.
        output: Directory to make.
        max_shard_bytes: Most bytes of one weight file.
        workers: Weight files made at the same time; None uses one per core, up to 8.

    Raises:
        ConfigError: the number of models does not fit the settings.
        CheckpointError: a model is missing or damaged, models do not belong together, or the output cannot be written.
    """
    settings.check_models(len(models))
    origin, opened = None if base is None else open_model(base), [open_model(model) for model in models]
    reference = origin or opened[0]
    tensors = sorted(common_tensors([*opened, reference], any_dtype=True), key=lambda info: info.name)
    refuse_other_vocabularies(reference, opened)
    sources = list(chain([] if origin is None else [origin], opened))
    with one_core_each(workers) as pool:
        hashing = [pool.submit(digest_files, source.reader.files) for source in sources]
        surveyed = survey(pool, tensors, opened, origin, pairs=settings.combine in GEOMETRIC)
        digests = [future.result() for future in hashing]
        descends = [origin is not None and is_descendant(model, digests[0]) for model in opened]
        if not settings.unrelated:
            undocumented = [place for place, recorded in enumerate(descends) if not recorded]
            refuse_unrelated(
                reference, [opened[at] for at in undocumented], [surveyed.cosines[at] for at in undocumented]
            )
        merge = Merge(
            settings=settings,
            models=opened,
            base=origin,
            tensors={info.name: info for info in tensors},
            survey=surveyed,
        )
        merge.find_thresholds(pool)
    with continued_directory(output, sum(info.bytes for info in tensors), LEDGER_FILE) as partial:
        ledger = open_ledger(partial, _recipe(settings, digests, max_shard_bytes))
        files = files_of(tensors, max_shard_bytes)

        def blocks(name: str) -> Iterator[Tensor]:
            return chain.from_iterable(merge.blocks(info.name) for info in files[name])

        held = write_missing_files(files, blocks, partial, ledger, workers)
        _count_again(merge, [info.name for name in held for info in files[name]])
        if reference.directory is not None:
            copy_model_files(reference.directory, partial)
        write_lineage(partial, merged_lineage(origin, opened, digests, descends))
        record = _record(merge, digests, descends, ledger.notice)
        write_record(partial / MERGE_FILE, asdict(record))
        ledger.remove()
    return record


def _count_again(merge: Merge, names: Sequence[str]) -> None:
    """Count what was kept of the tensors that an earlier try wrote."""
    for name in names:
        for _ in merge.blocks(name):
            pass


def _recipe(settings: MergingSettings, digests: Sequence[str], max_shard_bytes: int) -> dict[str, Any]:
    """Return everything that decides the bits of the merged files."""
    return {
        **{f"merging.{key}": value for key, value in asdict(settings).items()},
        **{f"version.{key}": value for key, value in versions().items()},
        "the sources' weights": list(digests),
        "bytes of a file": max_shard_bytes,
        "commit": git_commit(),
    }


def relative_noise(settings: MergingSettings, relative_delta: float) -> float | None:
    """Return the size of what random thinning adds, over the base's: r = sqrt(p / (1 - p)) |delta| / |theta_0|.

    None where nothing is drawn, or what is kept is not rescaled.
    """
    if settings.thin != "random" or settings.rescale != "unbiased" or settings.drop is None:
        return None
    return math.sqrt(settings.drop / (1 - settings.drop)) * relative_delta


def _record(merge: Merge, digests: Sequence[str], descends: Sequence[bool], continued: str | None) -> MergeRecord:
    base, settings, surveyed = merge.base, merge.settings, merge.survey
    own_digests = digests if base is None else digests[1:]
    return MergeRecord(
        merging=asdict(settings),
        base=None if base is None else {"source": base.label, "digest": digests[0]},
        models=[
            {
                "source": model.label,
                "digest": own_digests[place],
                "weight": merge.weights[place],
                "delta": surveyed.relative_deltas[place],
                "noise": relative_noise(settings, surveyed.relative_deltas[place]),
                "cosine": surveyed.cosines[place],
                "descends": descends[place],
            }
            for place, model in enumerate(merge.models)
        ],
        kept=dict(sorted(merge.kept.items())),
        copied=[name for name, info in merge.tensors.items() if not info.dtype.is_floating_point],
        continued=continued,
    )


def report_lines(record: MergeRecord) -> Iterator[str]:
    """Yield what a merge says of each model: the size of its delta, the noise of its thinning, and a warning."""
    for model in record.models:
        noise = model["noise"]
        drawn = "" if noise is None else f", noise of thinning r = {noise:.3g}"
        what = "|delta| / |base|" if record.base is not None else "|model| / |first model|"
        yield f"{what} = {model['delta']:.3g}{drawn}   {model['source']}"
        if noise is not None and noise > LOUD_NOISE:
            yield (
                f"warning: {model['source']}: thinning adds noise of {noise:.2g} of the base's norm, above "
                f"{LOUD_NOISE}. Expect a damaged model: lower merging.drop."
            )
