"""Exports a run's checkpoint as a stock model directory, with its tokenizer and cost, and compares their logits."""

import shutil
from dataclasses import replace
from pathlib import Path

import torch

from grow.common.errors import CheckpointError
from grow.common.files import new_directory
from grow.common.model_card import write_card
from grow.common.provenance import RUN_FILE, data_of, digest_files, spent_on, write_lineage
from grow.common.records import DAMAGED
from grow.data.shards import TokenShards
from grow.families.build import load_config
from grow.families.tokenizer_files import copy_tokenizer
from grow.families.weights import weight_files
from grow.growth.verify import Verification, verify
from grow.training.checkpoints.checkpoint_reader import require_complete
from grow.training.run_data import check_same_data
from grow.training.run_directory import RunDirectory

_SEQUENCES, _LENGTH = 4, 128  # random tokens that the two are compared on


def export_checkpoint(path: Path, output: Path) -> Verification:
    """Write RUN/checkpoints/step-... as a directory that loads anywhere, and compare what the two compute.

    Args:
        path: Directory of the checkpoint.
        output: Directory to make.

    Returns:
        How far the exported model's logits are from the checkpoint's.

    Raises:
        CheckpointError: the checkpoint is not complete or belongs to no run, or the output exists or cannot be written.
        DataError: the run's token shards, which hold its tokenizer, are gone, or others lie there.
    """
    require_complete(path)
    run = RunDirectory(path.parents[1])
    data = data_of(run.path)
    if data is None:
        raise CheckpointError(f"{run.path / RUN_FILE}: expected the run's token shards, found none. {DAMAGED}")
    shards = TokenShards.open(data)
    check_same_data(run.path, shards)
    with new_directory(output, sum(file.stat().st_size for file in weight_files(path))) as partial:
        for file in (path / "config.json", path / "generation_config.json", *_weights(path)):
            if file.exists():
                shutil.copy2(file, partial / file.name)
        copy_tokenizer(shards.tokenizer_dir, partial)
        spent = spent_on(path)
        assert spent is not None  # a run's checkpoint always records it
        write_lineage(partial, replace(spent, source=str(run.path), digest=digest_files(weight_files(partial))))
        write_card(partial, output.name, growth_record=run.growth, data=str(data))
        verification = verify(path, partial, _tokens(path), torch.float32)
        if not verification.preserved:
            raise CheckpointError(
                f"{output}: computes other logits than {path} (worst difference {verification.max_abs_logit_diff:.2e} "
                f"of {verification.max_abs_logit:.3g}). Nothing was exported; the files were changed while they were "
                "copied, or the disk is failing."
            )
    return verification


def _weights(path: Path) -> list[Path]:
    return [*weight_files(path), *path.glob("model.safetensors.index.json")]


def _tokens(path: Path) -> torch.Tensor:
    """Draw (sequences, length + 1) token ids evenly from a checkpoint's vocabulary, always the same ones."""
    vocabulary = load_config(path).vocab_size
    draw = torch.Generator().manual_seed(0)
    length = min(_LENGTH, getattr(load_config(path), "max_position_embeddings", _LENGTH))
    return torch.randint(vocabulary, (_SEQUENCES, length + 1), generator=draw)
