"""Exports what a run has trained: stock model directories, for the last weights and for their average."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from grow.common.clock import Clock
from grow.common.files import new_directory
from grow.common.model_card import write_card
from grow.common.printed import say
from grow.common.provenance import Lineage, digest_files, write_lineage
from grow.common.rows import read_rows
from grow.common.temporary import discard
from grow.data.shards import TokenShards
from grow.families.tokenizer_files import copy_tokenizer
from grow.families.weights import weight_files
from grow.training.checkpoints.checkpoint_writer import save_model
from grow.training.fit import Trained
from grow.training.run_directory import RunDirectory
from grow.training.start import Start


def export_run(start: Start, trained: Trained, run: RunDirectory, shards: TokenShards) -> None:
    """Write the trained model, and its average where there is one, with the data's tokenizer, and close run.json.

    Args:
        start: What the run started from.
        trained: What the fit ended with.
        run: Directory of the run; gets the models.
        shards: Token shards of the run, whose tokenizer goes with the models.

    Raises:
        CheckpointError: a model cannot be written.
    """
    if trained.weights is None:
        return
    _name_special_tokens(start.model, shards.eos_id)
    discard(run.average)  # left by an export that was killed before the model was written
    if trained.averaged is not None:
        _export(run.average, trained.averaged, start, trained.clock, run, shards)
    _export(run.model, trained.weights, start, trained.clock, run, shards)
    run.finish()
    say(f"Finished {trained.clock.tokens:,} tokens in {trained.clock.seconds:,.1f} s: {run.model}")


def _export(
    output: Path,
    weights: Mapping[str, Tensor],
    start: Start,
    clock: Clock,
    run: RunDirectory,
    shards: TokenShards,
) -> None:
    with new_directory(output, sum(tensor.nbytes for tensor in weights.values())) as partial:
        save_model(start.model, weights, partial)
        copy_tokenizer(shards.tokenizer_dir, partial)
        digest = digest_files(weight_files(partial))
        write_lineage(partial, total_spent(start, clock, source=str(run.path), digest=digest))
        write_card(
            partial,
            f"{run.path.name}/{output.name}",
            growth_record=run.growth,
            data=str(shards.path),
            scores=_final_scores(run, averaged=output == run.average),
        )


def _final_scores(run: RunDirectory, *, averaged: bool) -> dict[str, float]:
    """Return the last value of each validation and evaluation metric that the run logged for its weights."""
    prefixes = ("val_avg/", "eval_avg/") if averaged else ("val/", "eval/")
    rows = read_rows(run.metrics)
    last = {name: value for row in rows for name, value in row.items() if isinstance(value, (int, float))}
    return {name: value for name, value in last.items() if name.startswith(prefixes)}


def total_spent(start: Start, clock: Clock, *, source: str, digest: str) -> Lineage:
    """Return what a model has cost when its run ends, its source included; unknown where the source's cost is unknown.

    Args:
        start: What the run started from.
        clock: The run's clock.
        source: Name of the run.
        digest: Digest of the model's weight files.
    """
    before = start.lineage
    own = clock.reading()

    def total(name: str) -> Any:
        if before is None:
            return own[name]
        spent = getattr(before, name)
        return None if spent is None else spent + own[name]

    return Lineage(
        source=source,
        digest=digest,
        tokens=total("tokens"),
        flops=total("flops"),
        seconds=total("seconds"),
        license=None if before is None else before.license,
    )


def _name_special_tokens(model: PreTrainedModel, eos_id: int) -> None:
    """Give a model that names no end or beginning of text the token that its data uses."""
    for name in ("eos_token_id", "bos_token_id"):
        for config in (model.config, model.generation_config):
            if config is not None and getattr(config, name, None) is None:
                setattr(config, name, eos_id)
