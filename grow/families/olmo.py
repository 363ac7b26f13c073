"""OLMo-1: LayerNorm without gain or bias, SwiGLU, rotary positions (arXiv 2402.00838).

No parameter writes the axis that the head reads, so none can absorb the 1/n that a tied head needs. A grown OLMo-1
therefore has an untied head.
"""

from typing import Any

from grow.families.family import Family
from grow.families.settings import OlmoSettings
from grow.families.table import parse_table

TABLE = parse_table("""
    model.embed_tokens.weight                     vocab, embed
    model.layers.{layer}.self_attn.q_proj.weight  heads*query <- normed
    model.layers.{layer}.self_attn.q_proj.bias    heads*query
    model.layers.{layer}.self_attn.k_proj.weight  kv_heads*key <- normed
    model.layers.{layer}.self_attn.k_proj.bias    kv_heads*key
    model.layers.{layer}.self_attn.v_proj.weight  kv_heads*value <- normed
    model.layers.{layer}.self_attn.v_proj.bias    kv_heads*value
    model.layers.{layer}.self_attn.o_proj.weight  embed <- heads*value
    model.layers.{layer}.self_attn.o_proj.bias    embed
    model.layers.{layer}.mlp.gate_proj.weight     ffn <- normed
    model.layers.{layer}.mlp.up_proj.weight       ffn <- normed
    model.layers.{layer}.mlp.down_proj.weight     embed <- ffn
    lm_head.weight                                vocab <- head_in
""")


def specifics(model: OlmoSettings) -> dict[str, Any]:
    """Return the stock attributes of an OLMo-1 besides its sizes."""
    return {
        "initializer_range": model.init_std,
        "clip_qkv": model.clip_qkv,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
    }


OLMO = Family(
    model_type="olmo",
    table=TABLE,
    attributes={
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
        "layers": "num_hidden_layers",
        "embed": "hidden_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "ffn": "intermediate_size",
    },
    config_class="OlmoConfig",
    specifics=specifics,
    centred=True,
    rotary_dims=lambda config: config.hidden_size // config.num_attention_heads,
)
