"""Llama: RMSNorm before each sublayer, SwiGLU, rotary positions, grouped queries (arXiv 2302.13971)."""

from typing import Any

from grow.families.family import Family
from grow.families.settings import LlamaSettings
from grow.families.table import parse_table

TABLE = parse_table("""
    model.embed_tokens.weight                             vocab, embed
    model.layers.{layer}.input_layernorm.weight           normed ~ embed
    model.layers.{layer}.self_attn.q_proj.weight          heads*query <- normed
    model.layers.{layer}.self_attn.q_proj.bias            heads*query
    model.layers.{layer}.self_attn.k_proj.weight          kv_heads*key <- normed
    model.layers.{layer}.self_attn.k_proj.bias            kv_heads*key
    model.layers.{layer}.self_attn.v_proj.weight          kv_heads*value <- normed
    model.layers.{layer}.self_attn.v_proj.bias            kv_heads*value
    model.layers.{layer}.self_attn.o_proj.weight          embed <- heads*value
    model.layers.{layer}.self_attn.o_proj.bias            embed
    model.layers.{layer}.post_attention_layernorm.weight  normed ~ embed
    model.layers.{layer}.mlp.gate_proj.weight             ffn <- normed
    model.layers.{layer}.mlp.gate_proj.bias               ffn
    model.layers.{layer}.mlp.up_proj.weight               ffn <- normed
    model.layers.{layer}.mlp.up_proj.bias                 ffn
    model.layers.{layer}.mlp.down_proj.weight             embed <- ffn
    model.layers.{layer}.mlp.down_proj.bias               embed
    model.norm.weight                                     head_in ~ embed
    lm_head.weight                                        vocab <- head_in
""")


def specifics(model: LlamaSettings) -> dict[str, Any]:
    """Return the stock attributes of a Llama besides its sizes."""
    return {
        "initializer_range": model.init_std,
        "rms_norm_eps": model.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
    }


LLAMA = Family(
    model_type="llama",
    table=TABLE,
    attributes={
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
        "layers": "num_hidden_layers",
        "embed": "hidden_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "head_dim": "head_dim",
        "ffn": "intermediate_size",
    },
    config_class="LlamaConfig",
    specifics=specifics,
    rotary_dims=lambda config: config.head_dim,
)
