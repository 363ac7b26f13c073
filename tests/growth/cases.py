"""Tiny models of every family and layout, and growth in memory, for the growth tests."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoConfig,
    OlmoeConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from grow.families.experts import module_places
from grow.families.registry import family_of
from grow.families.weights import WeightReader
from grow.growth.made_tensors import GrowthPlan
from grow.growth.one_source import plan_one_source
from grow.growth.planning import with_source_layers
from grow.growth.settings import GrowthSettings, ScaleSettings
from grow.growth.target import scaled_target
from grow.growth.tensor_writer import made_tensor

VOCABULARY = 32
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}


def _half_rotary(fraction: float) -> dict:
    return {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": fraction}


CONFIGS: dict[str, PreTrainedConfig] = {
    "opt": OPTConfig(**_SIZES, ffn_dim=48, word_embed_proj_dim=32, tie_word_embeddings=True),
    "opt-untied": OPTConfig(**_SIZES, ffn_dim=48, word_embed_proj_dim=32, tie_word_embeddings=False),
    "opt-350m": OPTConfig(**_SIZES, ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False),
    "pythia": GPTNeoXConfig(**_SIZES, intermediate_size=48, rope_parameters=_half_rotary(0.5)),
    "pythia-tied": GPTNeoXConfig(
        **_SIZES, intermediate_size=48, rope_parameters=_half_rotary(0.25), tie_word_embeddings=True
    ),
}
for _tied in (False, True):
    for _attention, _kv_heads in (("mha", 4), ("gqa", 2), ("mqa", 1)):
        _grouped = {**_SIZES, "intermediate_size": 48, "num_key_value_heads": _kv_heads, "tie_word_embeddings": _tied}
        _suffix = f"-{_attention}" + ("-tied" if _tied else "")
        CONFIGS[f"olmo{_suffix}"] = OlmoConfig(**_grouped)
        CONFIGS[f"olmo2{_suffix}"] = Olmo2Config(**_grouped)
        CONFIGS[f"llama{_suffix}"] = LlamaConfig(**_grouped, attention_bias=True, mlp_bias=True)


_ONE = {**_SIZES, "intermediate_size": 48, "num_key_value_heads": 2, "tie_word_embeddings": True}
_WINDOWS = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
_CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
_TWO_OF_FOUR = {"num_experts": 4, "num_experts_per_tok": 2, "experts_implementation": "eager"}
ONE_LAYOUT: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(**_ONE),
    "qwen3": Qwen3Config(**_ONE, head_dim=12, attention_bias=True),
    "mistral": MistralConfig(**_ONE, sliding_window=4),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=32, n_inner=48),
    "gpt2-unscaled": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=32, scale_attn_weights=False
    ),
    "gemma2": Gemma2Config(**_ONE, **_WINDOWS, **_CAPS, head_dim=12, query_pre_attn_scalar=10),
    "gemma3": Gemma3TextConfig(**_ONE, **_WINDOWS, head_dim=12, query_pre_attn_scalar=10, attention_bias=True),
    "gemma3-untied": Gemma3TextConfig(**{**_ONE, "tie_word_embeddings": False}, **_WINDOWS, head_dim=8),
    "phi3": Phi3Config(**_ONE, rope_parameters=_half_rotary(0.5)),
    "olmo3": Olmo3Config(**_ONE, **_WINDOWS),
    "smollm3": SmolLM3Config(**_ONE, no_rope_layers=[1, 0]),
    "olmoe": OlmoeConfig(**_ONE, **_TWO_OF_FOUR),
    "qwen3_moe": Qwen3MoeConfig(**_ONE, **_TWO_OF_FOUR, head_dim=12, moe_intermediate_size=24, norm_topk_prob=True),
}
"""Layouts of the families that have one or two; a new family adds its line here."""
LAYOUTS = {**CONFIGS, **ONE_LAYOUT}


@dataclass(frozen=True, slots=True)
class Source:
    """A stored float64 model whose every parameter is random, so that no mistake hides behind a zero or a one."""

    config: PreTrainedConfig
    directory: Path
    model: PreTrainedModel


def make_source(config: PreTrainedConfig, directory: Path, seed: int = 0, dtype: torch.dtype = torch.float64) -> Source:
    """Build a random model and store it."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        mean = 1.0 if ("norm" in name or "ln_" in name) and name.endswith("weight") else 0.0
        torch.nn.init.normal_(parameter, mean, 0.3)
    model.save_pretrained(directory)
    return Source(config, directory, model)


def preset(share: str = "symmetric", snr_db: float | None = None, seed: int = 0) -> GrowthSettings:
    return GrowthSettings(name="test", share=share, snr_db=snr_db, seed=seed)


PRESETS = {
    "hyperclone": preset(),
    "hyperclone_noisy": preset(snr_db=10.0),
    "hyperclone_diagonal": preset("diagonal"),
    "hyperclone_diagonal_noisy": preset("diagonal", 10.0),
}


Target = ScaleSettings | PreTrainedConfig


def plan(source: Source, growth: GrowthSettings, scale: Target) -> tuple[GrowthPlan, PreTrainedConfig]:
    """The plan of a growth by factors or into a given architecture, and that architecture."""
    target = scaled_target(source.config, scale) if isinstance(scale, ScaleSettings) else scale
    target = with_source_layers([source.config], target, growth)
    return plan_one_source(WeightReader(source.directory), source.config, target, growth), target


def grown_tensors(source: Source, growth: GrowthSettings, scale: Target) -> dict[str, Tensor]:
    """Every tensor of the grown model, by its checkpoint name."""
    return tensors_of(plan(source, growth, scale)[0], source, growth)


def tensors_of(made: GrowthPlan, source: Source, growth: GrowthSettings) -> dict[str, Tensor]:
    """Every tensor that a plan makes."""
    reader = WeightReader(source.directory)
    return {tensor.target.name: torch.cat(list(made_tensor(tensor, [reader], growth.seed))) for tensor in made.tensors}


def grown_model(source: Source, growth: GrowthSettings, scale: Target) -> PreTrainedModel:
    """The grown model in memory, a stock class with the grown tensors."""
    made, target = plan(source, growth, scale)
    return model_of(target, tensors_of(made, source, growth), source.model.dtype)


def model_of(target: PreTrainedConfig, tensors: dict[str, Tensor], dtype: torch.dtype) -> PreTrainedModel:
    """A stock model with the given tensors."""
    target._experts_implementation = "eager"  # torch has no grouped product of doubles
    model = AutoModelForCausalLM.from_config(target, dtype=dtype, attn_implementation="eager").eval()
    places, parameters = module_places(family_of(target.model_type), model), dict(model.named_parameters())
    assert tensors.keys() == places.keys()
    with torch.no_grad():
        for name, place in places.items():
            parameters[place.parameter].view(-1)[place.elements] = tensors[name].flatten()
    return model


def some_tokens(sequences: int = 2, length: int = 12) -> Tensor:
    return torch.randint(VOCABULARY, (sequences, length), generator=torch.Generator().manual_seed(1))


def relative_difference(source: PreTrainedModel, grown: PreTrainedModel) -> float:
    """Worst logit difference over the largest logit."""
    tokens = some_tokens()
    with torch.no_grad():
        before, after = source(tokens).logits, grown(tokens).logits
    return float((after - before).abs().max() / before.abs().max())
