"""Phi-3: a Llama whose queries, keys and values are one matrix, and its gate and up projection another (2404.14219)."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from grow.families.llama import LLAMA
from grow.families.settings import Phi3Settings
from grow.families.table import parse_table

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TABLE = parse_table("""
    model.embed_tokens.weight                             vocab, embed
    model.layers.{layer}.input_layernorm.weight           normed ~ embed
    model.layers.{layer}.self_attn.qkv_proj.weight        (heads*query|kv_heads*key|kv_heads*value) <- normed
    model.layers.{layer}.self_attn.o_proj.weight          embed <- heads*value
    model.layers.{layer}.post_attention_layernorm.weight  normed ~ embed
    model.layers.{layer}.mlp.gate_up_proj.weight          (ffn|ffn) <- normed
    model.layers.{layer}.mlp.down_proj.weight             embed <- ffn
    model.norm.weight                                     head_in ~ embed
    lm_head.weight                                        vocab <- head_in
""")


def specifics(model: Phi3Settings) -> dict[str, Any]:
    """Return the stock attributes of a Phi-3 besides its sizes."""
    rope = {"rope_type": "default", "rope_theta": model.rope_theta, "partial_rotary_factor": model.rotary_fraction}
    return {**LLAMA.specifics(model), "rope_parameters": rope, "sliding_window": model.sliding_window}


def rotary_dims(config: "PreTrainedConfig") -> int:
    """Return how many elements at the front of each head are rotated."""
    head_dim = config.hidden_size // config.num_attention_heads
    dims = int(head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
    return dims + dims % 2  # the stock class rotates whole pairs


PHI3 = replace(
    LLAMA,
    model_type="phi3",
    table=TABLE,
    attributes={size: name for size, name in LLAMA.attributes.items() if size != "head_dim"},
    config_class="Phi3Config",
    specifics=specifics,
    rotary_dims=rotary_dims,
)
