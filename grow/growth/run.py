"""One growth, whole: find the source, plan, write, verify, record. A directory in, a directory out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from grow.common.errors import CheckpointError, GrowthError
from grow.common.files import continued_directory
from grow.common.provenance import (
    GROWTH_FILE,
    RUN_FILE,
    Lineage,
    digest_files,
    digest_json,
    git_commit,
    spent_on,
    versions,
    write_json,
    write_lineage,
)
from grow.families.build import load_config, model_on_meta
from grow.families.registry import family_of
from grow.families.weights import MAX_SHARD_BYTES, WeightReader, copy_tokenizer
from grow.growth.group_norm import stream_size
from grow.growth.joined import joined_target, plan_joined
from grow.growth.ledger import open_progress
from grow.growth.made_tensors import GrowthPlan, TensorPlan
from grow.growth.one_source import plan_growth
from grow.growth.settings import GrowthSettings, ScaleSettings
from grow.growth.target import scaled_target
from grow.growth.tensor_writer import write_grown_weights
from grow.growth.upcycled import plan_upcycled, upcycles
from grow.growth.verify import Verification, verify_mean

_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowthRecord:
    """What a growth did, and how it was found to be exact."""

    growth: GrowthSettings
    lineage: Lineage
    plan: GrowthPlan
    verification: Verification
    renamed: dict[str, str]
    continued: str | None = None
    """What became of an earlier try that was stopped."""

    @property
    def input_copies(self) -> dict[str, float]:
        """Parameter name in the stock module -> how often its inputs were repeated."""
        return {
            self.renamed.get(tensor.target.name, tensor.target.name): tensor.input_copies
            for tensor in self.plan.tensors
        }

    @property
    def breaks_symmetry(self) -> bool:
        """Whether copies can drift apart in training: there are none, or something tells them apart."""
        if self.growth.optimizer_state == "asymmetric":
            return True
        told = self.growth.tells_copies_apart
        widened = any(tensor.input_copies > 1 for tensor in self.plan.tensors)
        copied = any(isinstance(tensor, TensorPlan) and tensor.new_expert for tensor in self.plan.tensors)
        return (told or not widened) and (not copied or (told and widened))

    @property
    def described(self) -> str:
        """What became of the source, in a few words for a run's first line."""
        name = self.growth.name
        if self.plan.preserves and all(factor == 1 for factor in self.plan.factors.values()):
            return f"{self.lineage.source}, unchanged (growth={name})"
        kept = "its function kept" if self.plan.preserves else "which changes its function"
        return f"{self.lineage.source}, grown by {name}, {kept}"

    @property
    def notice(self) -> str | None:
        """What a run that starts from this has to say first: that it does not start with its source's function."""
        if self.plan.preserves:
            return None
        checked = self.verification
        return (
            f"growth={self.growth.name} does not preserve the function: {'; '.join(self.plan.reasons)}. "
            f"Loss {checked.loss_before:.3f} before, {checked.loss_after:.3f} after; logits differ by up to "
            f"{checked.max_abs_logit_diff:.3g} of {checked.max_abs_logit:.3g}, KL {checked.kl:.3g}."
        )

    def as_json(self) -> dict[str, object]:
        """The content of growth.json."""
        tensors = {tensor.target.name: tensor.as_json() for tensor in self.plan.tensors}
        return {
            "growth": asdict(self.growth),
            "source": asdict(self.lineage),
            "preserves": self.plan.preserves,
            "reasons": list(self.plan.reasons),
            "preserved": self.verification.preserved,
            **self.verification.as_json(),
            "factors": self.plan.factors,
            "layers": self.plan.layers,
            "plan_digest": digest_json({"growth": asdict(self.growth), "tensors": tensors}),
            "tensors": tensors,
        }


def target_of(sources: Sequence[PreTrainedConfig], growth: GrowthSettings, scale: ScaleSettings) -> PreTrainedConfig:
    """The architecture to grow into where no model is named: all sources together, or one with its sizes multiplied.

    Raises:
        GrowthError: the family cannot have these sizes together.
    """
    return joined_target(sources, growth) if len(sources) > 1 else scaled_target(sources[0], scale)


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
    """Grow a checkpoint into a target architecture, and prove that it computes the same function if it claims to.

    Killed, it goes on where it was when it is called again alike; neither growing nor proving holds a whole model.

    Args:
        source: checkpoint directory, run directory, or hub id; `growth.sources` go before it.
        output: directory to make; it holds a stock model, its tokenizer, lineage.json and growth.json.
        growth: what to do.
        target: the bigger architecture.
        tokens: (sequences, length + 1) int64 ids to verify on; None draws random ids of the vocabulary.
        max_shard_bytes: most bytes of one weight file.
        workers: weight files made at a time, each with a tensor in memory; None takes a core each, up to 8.

    Raises:
        GrowthError: source and target do not fit, or the result claims to compute the source's function and
            does not.
        CheckpointError: the source is missing or damaged, or the output cannot be written.
    """
    names = growth.sources or [source]
    directories = [find_source(name) for name in names]
    configs = [load_config(directory) for directory in directories]
    readers = [WeightReader(directory) for directory in directories]
    digests = [digest_files(reader.files) for reader in readers]
    tokens = random_tokens(target) if tokens is None else tokens
    sizes = None
    if upcycles(configs[0], target):
        plan = plan_upcycled(readers, configs, target, growth)
    elif growth.sources is None:
        plan = plan_growth(readers[0], configs[0], target, growth)
    else:
        sizes = [stream_size(directory, tokens) for directory in directories] if growth.balance else None
        plan = plan_joined(readers, configs, target, growth, sizes)
    directory, config = directories[0], configs[0]
    lineage = _lineage(names, directories, digests)
    with continued_directory(output, plan.bytes) as partial:
        progress = open_progress(partial, _recipe(growth, target, digests, sizes, max_shard_bytes))
        write_grown_weights(
            plan,
            readers,
            partial,
            seed=growth.seed,
            max_shard_bytes=max_shard_bytes,
            workers=workers,
            progress=progress,
        )
        _write_config(target, config, plan, partial)
        copy_tokenizer(directory, partial)
        write_lineage(partial, lineage)
        dtype = plan.tensors[0].target.dtype
        checked = verify_mean(list(zip(directories, growth.shares_of_sources, strict=True)), partial, tokens, dtype)
        record = GrowthRecord(
            growth=growth,
            lineage=lineage,
            plan=plan,
            verification=checked,
            renamed=dict(family_of(target.model_type).renamed),
            continued=progress.notice,
        )
        write_json(partial / GROWTH_FILE, record.as_json())
        if plan.preserves:
            _refuse_unless_preserved(checked)
        progress.finish()
    return record


def _recipe(
    growth: GrowthSettings, target: PreTrainedConfig, digests: list[str], sizes: list[float] | None, shard_bytes: int
) -> dict[str, Any]:
    """All that decides the bits of the grown files."""
    return {
        **{f"growth.{key}": value for key, value in asdict(growth).items()},
        **{f"target.{key}": value for key, value in target.to_dict().items()},
        **{f"version.{key}": value for key, value in versions().items()},
        "the sources' weights": digests,
        "the sources' stream sizes": sizes,
        "bytes of a file": shard_bytes,
        "commit": git_commit(),
    }


def _lineage(names: list[str], directories: list[Path], digests: list[str]) -> Lineage:
    """What the sources cost together; unknown where one of them is."""
    spent = [spent_on(directory) for directory in directories]

    def total(cost: str) -> Any:
        costs = [getattr(each, cost, None) for each in spent]
        return None if None in costs else sum(costs)

    return Lineage(
        source=" + ".join(names),
        digest=digests[0] if len(digests) == 1 else digest_json(digests),
        tokens=total("tokens"),
        flops=total("flops"),
        seconds=total("seconds"),
    )


def find_source(source: str) -> Path:
    """The directory of a source: a model directory, a run's `model/`, or a hub download (NAME or NAME@REVISION).

    Raises:
        CheckpointError: there is no such directory or hub model, or the hub cannot be reached.
    """
    path = Path(source)
    if path.is_dir():
        return path / "model" if (path / RUN_FILE).is_file() and (path / "model").is_dir() else path
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise CheckpointError(f"{source}: no such directory. Give a model directory, a run directory or a hub id.")
    from huggingface_hub import snapshot_download

    try:
        name, _, revision = source.partition("@")
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_HUB_FILES))
    except Exception as error:  # the hub client has a dozen kinds, all of which mean: not to be had
        raise CheckpointError(
            f"{source}: no such directory, and the hub did not give it ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}). Check the name and the network, or download it elsewhere and give "
            "the directory."
        ) from None


def random_tokens(config: PreTrainedConfig, sequences: int = 2, length: int = 32) -> Tensor:
    """(sequences, length + 1) ids drawn evenly from a model's vocabulary, always the same."""
    length = min(length, config.max_position_embeddings)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(config.vocab_size, (sequences, length + 1), generator=generator)


def _write_config(target: PreTrainedConfig, source: PreTrainedConfig, plan: GrowthPlan, directory: Path) -> None:
    stored = type(target).from_dict(target.to_dict())
    stored.architectures = [type(model_on_meta(target)).__name__]
    stored.dtype = plan.tensors[0].target.dtype
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):  # the tokenizer is the source's, so are its ids
        setattr(stored, name, getattr(source, name, None))
    stored.save_pretrained(directory)


def _refuse_unless_preserved(checked: Verification) -> None:
    if not checked.preserved:
        raise GrowthError(
            "the grown model does not compute its source's function: logits differ by "
            f"{checked.max_abs_logit_diff:.3g} of {checked.max_abs_logit:.3g} (allowed {checked.tolerance:.0e} of it), "
            "best-fit scale "
            f"{checked.logit_scale:.4f}, KL {checked.kl:.3g}. Nothing was kept. This is a defect in Grow or in the "
            "source's config.json; please report both configurations."
        )
