"""Runs one growth from end to end: open the sources, plan, write, verify, record. A directory in, a directory out."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig

from grow.common.digests import ContentDigest
from grow.common.errors import CheckpointError, GrowthError
from grow.common.files import continued_directory
from grow.common.model_card import license_of, write_card
from grow.common.provenance import (
    GROWTH_FILE,
    Lineage,
    digest_files,
    git_commit,
    spent_on,
    versions,
    write_lineage,
    write_record,
)
from grow.families.build import load_config, model_on_meta
from grow.families.registry import family_of
from grow.families.source_directory import find_source
from grow.families.tokenizer_files import copy_model_files
from grow.families.weights import MAX_SHARD_BYTES, WeightReader
from grow.growth.group_norm import stream_size
from grow.growth.ledger import LEDGER_FILE, open_ledger
from grow.growth.made_tensors import GrowthPlan
from grow.growth.planning import balances_streams, plan_of, with_source_layers
from grow.growth.record import GrowthRecord
from grow.growth.settings import GrowthSettings
from grow.growth.stored_dtype import coarsest_dtype, finest_dtype
from grow.growth.tensor_writer import grown_files, write_missing_files
from grow.growth.verify import Verification, verify_mean


def grow(
    source: str,
    output: Path,
    growth: GrowthSettings,
    target: PreTrainedConfig,
    tokens: Tensor | None = None,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    workers: int | None = None,
) -> GrowthRecord:
    """Grow a checkpoint into a target architecture, and verify that it computes the same function if it claims to.

    The same call continues a growth that was killed. Neither growing nor verifying holds a whole model in memory.

    Args:
        source: Checkpoint directory, run directory or hub id; ignored where `growth.sources` names several.
        output: Directory to make; it holds a stock model, its tokenizer, lineage.json and growth.json.
        growth: How to grow.
        target: The bigger architecture.
        tokens: (sequences, length + 1) int64 ids to verify on; None samples ids of the vocabulary.
        max_shard_bytes: Most bytes of one weight file.
        workers: Weight files made at the same time, each with a tensor in memory; None uses one per core, up to 8.

    Raises:
        GrowthError: source and target do not fit together, or the result claims to compute the source's function and
            does not.
        CheckpointError: the source is missing or damaged, or the output cannot be written.
    """
    tokens = random_tokens(target) if tokens is None else tokens
    sources = _open(growth.sources or [source])
    target = with_source_layers(sources.configs, target, growth)
    sizes = _stream_sizes(sources, target, growth, tokens)
    plan = plan_of(sources.readers, sources.configs, target, growth, sizes)
    with continued_directory(output, plan.bytes, LEDGER_FILE) as partial, ThreadPoolExecutor(1) as hashing:
        digests = [hashing.submit(_digest, reader) for reader in sources.readers]  # while the weights are grown
        ledger = open_ledger(partial, _recipe(growth, target, digests, sizes, max_shard_bytes))
        files, blocks = grown_files(plan, sources.readers, growth.seed, max_shard_bytes)
        write_missing_files(files, blocks, partial, ledger, workers)
        _write_description(plan, target, sources, partial)
        verification = _prove(plan, growth, sources, partial, tokens)
        record = GrowthRecord(
            growth=growth,
            lineage=replace(sources.lineage, digest=_joined_digest([digest.result() for digest in digests])),
            plan=plan,
            verification=verification,
            renamed=dict(family_of(target.model_type).renamed),
            continued=ledger.notice,
        )
        _record(record, partial)
        write_card(partial, f"{target.model_type} grown with {growth.name}", growth_record=partial / GROWTH_FILE)
        ledger.remove()
    return record


def random_tokens(config: PreTrainedConfig, sequences: int = 2, length: int = 32) -> Tensor:
    """Draw (sequences, length + 1) ids evenly from a model's vocabulary, always the same ones."""
    length = min(length, config.max_position_embeddings)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(config.vocab_size, (sequences, length + 1), generator=generator)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sources:
    """The checkpoints that are grown, in their order; of their weights only headers have been read."""

    directories: Sequence[Path]
    configs: Sequence[PreTrainedConfig]
    readers: Sequence[WeightReader]
    lineage: Lineage
    """What the sources cost together; their digest is still to come."""


def _open(names: Sequence[str]) -> _Sources:
    """Find the sources and read their headers and costs."""
    directories = [find_source(name) for name in names]
    configs = [load_config(directory) for directory in directories]
    readers = [WeightReader(directory) for directory in directories]
    return _Sources(directories=directories, configs=configs, readers=readers, lineage=_lineage(names, directories))


def _digest(reader: WeightReader) -> str:
    """Return the digest of a source's files, which are those that were opened."""
    digest = digest_files(reader.files)
    reader.refuse_changes()
    return digest


def _joined_digest(digests: Sequence[str]) -> str:
    """Return one digest for all sources."""
    if len(digests) == 1:
        return digests[0]
    total = ContentDigest()
    for digest in digests:
        total.update(f"{digest}\n".encode())
    return total.text


def _lineage(names: Sequence[str], directories: Sequence[Path]) -> Lineage:
    """Return what the sources cost together; unknown where the cost of one of them is unknown."""
    spent = [spent_on(directory) for directory in directories]
    pairs = zip(spent, directories, strict=True)

    def total(cost: str) -> Any:
        costs = [getattr(each, cost, None) for each in spent]
        return None if None in costs else sum(costs)

    licenses = {(each and each.license) or license_of(directory) for each, directory in pairs}
    return Lineage(
        source=" + ".join(names),
        digest="",
        tokens=total("tokens"),
        flops=total("flops"),
        seconds=total("seconds"),
        converted="; ".join(each.converted for each in spent if each is not None and each.converted) or None,
        license=", ".join(sorted(filter(None, licenses))) or None,
    )


def _stream_sizes(
    sources: _Sources, target: PreTrainedConfig, growth: GrowthSettings, tokens: Tensor
) -> list[float] | None:
    """Measure the sources' residual streams where the growth balances them."""
    if not balances_streams(sources.configs, target, growth):
        return None
    return [stream_size(directory, tokens) for directory in sources.directories]


def _recipe(
    growth: GrowthSettings,
    target: PreTrainedConfig,
    digests: Sequence["Future[str]"],
    sizes: Sequence[float] | None,
    max_shard_bytes: int,
) -> dict[str, Any]:
    """Return everything that decides the bits of the grown files."""
    return {
        **{f"growth.{key}": value for key, value in asdict(growth).items()},
        **{f"target.{key}": value for key, value in target.to_dict().items()},
        **{f"version.{key}": value for key, value in versions().items()},
        "the sources' weights": digests,
        "the sources' stream sizes": sizes,
        "bytes of a file": max_shard_bytes,
        "commit": git_commit(),
    }


def _write_description(plan: GrowthPlan, target: PreTrainedConfig, sources: _Sources, directory: Path) -> None:
    """Write configurations and tokenizer; all of them keep the first source's special tokens."""
    stored = type(target).from_dict(target.to_dict())
    stored.architectures = [type(model_on_meta(target)).__name__]
    stored.dtype = finest_dtype(plan)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(stored, name, getattr(sources.configs[0], name, None))
    stored.save_pretrained(directory)
    GenerationConfig.from_model_config(stored).save_pretrained(directory)
    copy_model_files(sources.directories[0], directory)  # with the source's own generation_config.json, if any


def _prove(
    plan: GrowthPlan, growth: GrowthSettings, sources: _Sources, directory: Path, tokens: Tensor
) -> Verification:
    """Compare the grown model with its sources; refuse it if its plan claims that they agree and they do not."""
    weighted = list(zip(sources.directories, growth.shares_of_sources, strict=True))
    checked = verify_mean(weighted, directory, tokens, coarsest_dtype(plan))
    if not (isfinite(checked.loss_before) and isfinite(checked.loss_after)):
        raise CheckpointError(
            f"{', '.join(map(str, sources.directories))}: expected a finite loss, found {checked.loss_before:.4g} "
            f"before the growth and {checked.loss_after:.4g} after it. The weights are finite but too large to compute "
            "with. Nothing was kept; grow an earlier checkpoint."
        )
    if plan.preserves and not checked.preserved:
        raise GrowthError(
            "the grown model does not compute its source's function: logits differ by "
            f"{checked.max_abs_logit_diff:.3g} of {checked.max_abs_logit:.3g} (allowed {checked.tolerance:.0e} of it), "
            f"best-fit scale {checked.logit_scale:.4f}, KL {checked.kl:.3g}. Nothing was kept. This is a defect in "
            "Grow or in the source's config.json; please report both configurations."
        )
    return checked


def _record(record: GrowthRecord, directory: Path) -> None:
    """Write lineage.json and growth.json."""
    write_lineage(directory, record.lineage)
    write_record(directory / GROWTH_FILE, record.as_json())
