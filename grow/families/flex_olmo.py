"""FlexOlmo: an OLMo-2 whose feed-forward blocks are experts (arXiv 2507.07024).

With `norm_topk_prob` the best k probabilities are scaled to add up to one, as Mixtral does.
"""

from typing import Any

from grow.families.experts import unpack_experts
from grow.families.family import Family
from grow.families.mixture_settings import FlexOlmoSettings
from grow.families.olmo2 import OLMO2
from grow.families.table import parse_table

TABLE = parse_table("""
    model.embed_tokens.weight                                  vocab, embed
    model.layers.{layer}.self_attn.q_proj.weight               raw_heads*key <- embed
    model.layers.{layer}.self_attn.q_norm.weight               heads*query ~ raw_heads*key
    model.layers.{layer}.self_attn.k_proj.weight               raw_kv_heads*key <- embed
    model.layers.{layer}.self_attn.k_norm.weight               kv_heads*key ~ raw_kv_heads*key
    model.layers.{layer}.self_attn.v_proj.weight               kv_heads*value <- embed
    model.layers.{layer}.self_attn.o_proj.weight               embed <- heads*value
    model.layers.{layer}.post_attention_layernorm.weight       embed ~ embed
    model.layers.{layer}.mlp.gate.weight                       experts <- embed
    model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight ffn <- embed
    model.layers.{layer}.mlp.experts.{expert}.up_proj.weight   ffn <- embed
    model.layers.{layer}.mlp.experts.{expert}.down_proj.weight embed <- ffn
    model.layers.{layer}.post_feedforward_layernorm.weight     embed ~ embed
    model.norm.weight                                          head_in ~ embed
    lm_head.weight                                             vocab <- head_in
""")


def specifics(model: FlexOlmoSettings) -> dict[str, Any]:
    """Return the stock attributes of a FlexOlmo besides its sizes."""
    return {
        **OLMO2.specifics(model),
        "norm_topk_prob": True,
    }


FLEX_OLMO = Family(
    model_type="flex_olmo",
    table=TABLE,
    attributes={**OLMO2.attributes, "experts": "num_experts", "active_experts": "num_experts_per_tok"},
    config_class="FlexOlmoConfig",
    specifics=specifics,
    rotary_dims=OLMO2.rotary_dims,
    unpacked=unpack_experts("mlp", gate="gate_proj", up="up_proj", down="down_proj"),
    dense="olmo2",
    dense_names={"mlp.experts.{expert}.": "mlp."},
)
