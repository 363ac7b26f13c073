"""OLMo-2: RMSNorm on each sublayer's output and on whole queries and keys (arXiv 2501.00656).

Queries are normalised after their projection. So growth repeats the rows of the projection unscaled, as it does for
keys, and puts the scale that keeps the attention scores into the gain of the norm behind it.
"""

from typing import Any

from grow.families.family import Family
from grow.families.settings import Olmo2Settings
from grow.families.table import parse_table

TABLE = parse_table("""
    model.embed_tokens.weight                               vocab, embed
    model.layers.{layer}.self_attn.q_proj.weight            raw_heads*key <- embed
    model.layers.{layer}.self_attn.q_norm.weight            heads*query ~ raw_heads*key
    model.layers.{layer}.self_attn.k_proj.weight            raw_kv_heads*key <- embed
    model.layers.{layer}.self_attn.k_norm.weight            kv_heads*key ~ raw_kv_heads*key
    model.layers.{layer}.self_attn.v_proj.weight            kv_heads*value <- embed
    model.layers.{layer}.self_attn.o_proj.weight            embed <- heads*value
    model.layers.{layer}.post_attention_layernorm.weight    embed ~ embed
    model.layers.{layer}.mlp.gate_proj.weight               ffn <- embed
    model.layers.{layer}.mlp.up_proj.weight                 ffn <- embed
    model.layers.{layer}.mlp.down_proj.weight               embed <- ffn
    model.layers.{layer}.post_feedforward_layernorm.weight  embed ~ embed
    model.norm.weight                                       head_in ~ embed
    lm_head.weight                                          vocab <- head_in
""")


def specifics(model: Olmo2Settings) -> dict[str, Any]:
    """Return the stock attributes of an OLMo-2 besides its sizes."""
    return {
        "initializer_range": model.init_std,
        "rms_norm_eps": model.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
    }


OLMO2 = Family(
    model_type="olmo2",
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
    config_class="Olmo2Config",
    specifics=specifics,
    rotary_dims=lambda config: config.hidden_size // config.num_attention_heads,
)
