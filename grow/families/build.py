"""Stock transformers models are built here, from noise or from a directory, and their parameters and FLOPs counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
)
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from grow.common.clock import flops_per_token
from grow.common.contained import contained_file
from grow.common.errors import CheckpointError
from grow.common.records import read_json
from grow.families.registry import family_of
from grow.families.weights import WeightReader

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # costs more than torch; what reads only configurations does without it

LINEAR = (nn.Linear, Conv1D)
"""The modules that multiply with a matrix; GPT-2's store it transposed."""
_GENERATION_FILE = "generation_config.json"
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_QUANTIZED = ("quantization_config", "compression_config")

transformers_logging.disable_progress_bar()


def model_from_noise(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """Build a float32 model with the stock initialisation, the same one for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention_of(config), trust_remote_code=False
        )


def attention_of(config: PreTrainedConfig) -> str:
    """Return torch's fused attention, or `eager` for a stock class that has none (Gemma 2, whose scores are capped)."""
    stock: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return "sdpa" if stock._supports_sdpa else "eager"


def model_on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a model whose parameters have names and shapes but no storage."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def load_model(directory: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load the model of a stock checkpoint directory.

    Transformers is given tensors instead of the directory: it finds no code, no adapter and no pickle in there, and
    maps no file into memory.

    Raises:
        CheckpointError: the directory holds no complete model, or its files change while they are read.
    """
    config, reader = load_config(directory), WeightReader(directory)
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention_of(config)}
    if dtype == torch.float64:
        options["experts_implementation"] = "eager"  # torch has no grouped product of doubles
    tensors = {name: _Unread(reader, name) for name in reader.names}
    try:
        stock: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        model, info = stock.from_pretrained(
            None, config=config, state_dict=tensors, trust_remote_code=False, output_loading_info=True, **options
        )
        if (directory / _GENERATION_FILE).is_file():
            model.generation_config = GenerationConfig.from_dict(read_json(contained_file(directory, _GENERATION_FILE)))
    except CheckpointError:
        raise
    except Exception as error:  # transformers and torch each raise their own kinds
        raise CheckpointError(f"{directory}: cannot be loaded as a model: {' '.join(str(error).split())}") from None
    if info["missing_keys"] or info["mismatched_keys"]:
        wrong = sorted(map(str, {*info["missing_keys"], *info["mismatched_keys"]}))
        raise CheckpointError(f"{directory}: {len(wrong)} tensors are missing or have another shape: {wrong[:3]} ...")
    return model


@dataclass(frozen=True, slots=True)
class _Unread:
    """A tensor that is read when Transformers takes all of it; until then it costs no memory."""

    reader: WeightReader
    name: str

    def __getitem__(self, everything: object) -> torch.Tensor:
        return self.reader.read(self.name)


def load_config(directory: Path) -> PreTrainedConfig:
    """Load the stock configuration of a checkpoint directory. It is data: what it says of code to run is left out.

    Raises:
        CheckpointError: the directory has none, it is damaged, or it is of a kind that Transformers does not have.
    """
    path = contained_file(directory, "config.json")
    if not path.is_file():
        raise CheckpointError(
            f"{directory}: expected a model directory with a config.json, found "
            f"{'none in it' if directory.is_dir() else 'no such directory'}. Give a directory that "
            "save_pretrained wrote, such as outputs/RUN/model."
        )
    content = read_json(path)
    kind = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise CheckpointError(
            f"{path}: expected a model_type that Transformers itself has, found {kind!r}. Grow runs no code that comes "
            "with a checkpoint."
        )
    if any(content.get(key) for key in _QUANTIZED):
        raise CheckpointError(f"{path}: the weights are quantized. Give the checkpoint that they were quantized from.")
    try:
        config = CONFIG_MAPPING[kind].from_dict({key: content[key] for key in content if not _names_code(key)})
    except Exception as error:  # value, key and type errors alike
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from None
    _check_sizes(path, config)
    return config


def _check_sizes(path: Path, config: PreTrainedConfig) -> None:
    """Refuse sizes and activations with which no model can be built."""
    sizes = {name: getattr(config, name) for name in _SIZES if hasattr(config, name)}
    wrong = {name: size for name, size in sizes.items() if not isinstance(size, int) or size < 1}
    if wrong:
        raise CheckpointError(f"{path}: expected sizes of 1 or more, found {wrong}. Fetch the checkpoint again.")
    if getattr(config, "hidden_act", "gelu") not in ACT2FN:
        raise CheckpointError(
            f"{path}: expected hidden_act to be one of {', '.join(ACT2FN)}, found {config.hidden_act!r}."
        )


def _names_code(key: str) -> bool:
    """Return whether a key of a configuration says which code computes the model; a kernel may come from the hub."""
    return key == "auto_map" or "attn_implementation" in key or "experts_implementation" in key


def decoder_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Return a model's decoder blocks, and the name under which its decoder has them."""
    children = model.get_decoder().named_children()
    return next((name, child) for name, child in children if isinstance(child, nn.ModuleList))


def logit_cap(config: PreTrainedConfig) -> float | None:
    """Return the bound that a model sets to its logits; None where it sets none, as all but Gemma 2 do."""
    cap: float | None = getattr(config, "final_logit_softcapping", None)
    return cap


def parameter_count(model: nn.Module) -> int:
    """Count all parameters; a tied head counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def training_flops_per_token(model: PreTrainedModel, sequence_length: int) -> int:
    """Return the FLOPs of forward and backward for one token, by the convention of `grow.common.clock`."""
    sizes = family_of(model.config.model_type).sizes(model.config)
    matmul = sum(module.weight.numel() for module in model.modules() if isinstance(module, LINEAR))
    packed = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() == 3)  # experts, not routers
    return flops_per_token(
        matmul_parameters=matmul + (packed * sizes["active_experts"] // sizes["experts"] if packed else 0),
        layers=sizes["layers"],
        attention_width=sizes["heads"] * sizes["head_dim"],
        sequence_length=sequence_length,
    )
