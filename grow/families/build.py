"""Stock transformers models are built here, from noise or from a directory, and their parameters and FLOPs counted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.utils import logging as transformers_logging

from grow.common.clock import flops_per_token
from grow.common.errors import CheckpointError
from grow.families.registry import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # costs more than torch; what reads only configurations does without it

transformers_logging.disable_progress_bar()


def model_from_noise(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """Build a float32 model with the stock initialisation, the same one for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")


def model_on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a model whose parameters have names and shapes but no storage."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def load_model(directory: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load the model of a stock checkpoint directory.

    Raises:
        CheckpointError: the directory holds no complete model.
    """
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa", "local_files_only": True}
    if dtype == torch.float64:
        options["experts_implementation"] = "eager"  # torch has no grouped product of doubles
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(directory, **options, output_loading_info=True)
        model, info = loaded
    except Exception as error:  # transformers, safetensors and the system each raise their own kinds
        raise CheckpointError(f"{directory}: cannot be loaded as a model: {' '.join(str(error).split())}") from None
    if info["missing_keys"] or info["mismatched_keys"]:
        wrong = sorted(map(str, {*info["missing_keys"], *info["mismatched_keys"]}))
        raise CheckpointError(f"{directory}: {len(wrong)} tensors are missing or have another shape: {wrong[:3]} ...")
    return model


def load_config(directory: Path) -> PreTrainedConfig:
    """Load the stock configuration of a checkpoint directory.

    Raises:
        CheckpointError: the directory has none, or it is damaged.
    """
    if not (directory / "config.json").is_file():
        raise CheckpointError(
            f"{directory}: expected a model directory with a config.json, found "
            f"{'none in it' if directory.is_dir() else 'no such directory'}. Give a directory that "
            "save_pretrained wrote, such as outputs/RUN/model."
        )
    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # json, value and key errors alike
        raise CheckpointError(f"{directory}/config.json: {' '.join(str(error).split())}") from None


def parameter_count(model: nn.Module) -> int:
    """Count all parameters; a tied head counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def training_flops_per_token(model: PreTrainedModel, sequence_length: int) -> int:
    """Return the FLOPs of forward and backward for one token, by the convention of `grow.common.clock`."""
    sizes = family_of(model.config.model_type).sizes(model.config)
    matmul = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    packed = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 3)  # experts, not routers
    return flops_per_token(
        matmul_parameters=matmul + (packed * sizes["active_experts"] // sizes["experts"] if packed else 0),
        layers=sizes["layers"],
        attention_width=sizes["heads"] * sizes["head_dim"],
        sequence_length=sequence_length,
    )
