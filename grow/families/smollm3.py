"""SmolLM3: a Llama of which every fourth layer has no rotary positions (Hugging Face 2025; NoPE, arXiv 2305.19466)."""

from dataclasses import replace
from typing import Any

from grow.families.llama import LLAMA
from grow.families.settings import SmolLm3Settings


def specifics(model: SmolLm3Settings) -> dict[str, Any]:
    """Return the stock attributes of a SmolLM3 besides its sizes."""
    return {**LLAMA.specifics(model), "no_rope_layer_interval": model.layers_per_unrotated}


SMOLLM3 = replace(
    LLAMA,
    model_type="smollm3",
    attributes={size: name for size, name in LLAMA.attributes.items() if size != "head_dim"},
    config_class="SmolLM3Config",
    specifics=specifics,
    rotary_dims=lambda config: config.hidden_size // config.num_attention_heads,
)
