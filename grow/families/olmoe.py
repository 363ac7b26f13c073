"""OLMoE: norms before each sublayer and over whole queries and keys, and experts (arXiv 2409.02060).

No stock class is its dense form, so it grows from itself: wider, deeper, or with more experts.
"""

from dataclasses import replace
from typing import Any

from grow.families.experts import unpack_experts
from grow.families.flex_olmo import FLEX_OLMO
from grow.families.mixture_settings import OlmoeSettings
from grow.families.olmo2 import OLMO2
from grow.families.table import parse_table

TABLE = parse_table("""
    model.embed_tokens.weight                                  vocab, embed
    model.layers.{layer}.input_layernorm.weight                normed ~ embed
    model.layers.{layer}.self_attn.q_proj.weight               raw_heads*key <- normed
    model.layers.{layer}.self_attn.q_norm.weight               heads*query ~ raw_heads*key
    model.layers.{layer}.self_attn.k_proj.weight               raw_kv_heads*key <- normed
    model.layers.{layer}.self_attn.k_norm.weight               kv_heads*key ~ raw_kv_heads*key
    model.layers.{layer}.self_attn.v_proj.weight               kv_heads*value <- normed
    model.layers.{layer}.self_attn.o_proj.weight               embed <- heads*value
    model.layers.{layer}.post_attention_layernorm.weight       normed ~ embed
    model.layers.{layer}.mlp.gate.weight                       experts <- normed
    model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight ffn <- normed
    model.layers.{layer}.mlp.experts.{expert}.up_proj.weight   ffn <- normed
    model.layers.{layer}.mlp.experts.{expert}.down_proj.weight embed <- ffn
    model.norm.weight                                          head_in ~ embed
    lm_head.weight                                             vocab <- head_in
""")


def specifics(model: OlmoeSettings) -> dict[str, Any]:
    """Return the stock attributes of an OLMoE besides its sizes."""
    return {**OLMO2.specifics(model), "norm_topk_prob": model.normalised_shares, "clip_qkv": model.clip_qkv}


OLMOE = replace(
    FLEX_OLMO,
    model_type="olmoe",
    table=TABLE,
    config_class="OlmoeConfig",
    specifics=specifics,
    unpacked=unpack_experts("mlp", gate="gate_proj", up="up_proj", down="down_proj"),
    unsupported=lambda config: "biases (attention_bias)" if config.attention_bias else None,
    dense=None,
    dense_names={},
)
