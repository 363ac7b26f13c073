"""Gemma 2: norms before and after each sublayer, gains stored less one, capped scores and logits (arXiv 2408.00118).

The model multiplies embeddings by sqrt(embed), so a table for another width carries the inverse ratio of the two; and
it scales scores by `query_pre_attn_scalar`, whatever head_dim is.
"""

from typing import TYPE_CHECKING, Any

from grow.families.family import Family
from grow.families.llama import LLAMA
from grow.families.settings import Gemma2Settings
from grow.families.table import parse_table

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TABLE = parse_table("""
    model.embed_tokens.weight                               vocab, unscaled
    model.layers.{layer}.input_layernorm.weight             1 + normed ~ embed
    model.layers.{layer}.self_attn.q_proj.weight            heads*query <- normed
    model.layers.{layer}.self_attn.q_proj.bias              heads*query
    model.layers.{layer}.self_attn.k_proj.weight            kv_heads*key <- normed
    model.layers.{layer}.self_attn.k_proj.bias              kv_heads*key
    model.layers.{layer}.self_attn.v_proj.weight            kv_heads*value <- normed
    model.layers.{layer}.self_attn.v_proj.bias              kv_heads*value
    model.layers.{layer}.self_attn.o_proj.weight            embed <- heads*value
    model.layers.{layer}.self_attn.o_proj.bias              embed
    model.layers.{layer}.post_attention_layernorm.weight    1 + embed ~ embed
    model.layers.{layer}.pre_feedforward_layernorm.weight   1 + normed ~ embed
    model.layers.{layer}.mlp.gate_proj.weight               ffn <- normed
    model.layers.{layer}.mlp.up_proj.weight                 ffn <- normed
    model.layers.{layer}.mlp.down_proj.weight               embed <- ffn
    model.layers.{layer}.post_feedforward_layernorm.weight  1 + embed ~ embed
    model.norm.weight                                       1 + head_in ~ embed
    lm_head.weight                                          vocab <- head_in
""")


def specifics(model: Gemma2Settings) -> dict[str, Any]:
    """Return the stock attributes of a Gemma 2 besides its sizes."""
    return {
        **LLAMA.specifics(model),
        "query_pre_attn_scalar": model.query_scale or model.head_dim,
        "sliding_window": model.sliding_window,
        "attn_logit_softcapping": model.score_cap,
        "final_logit_softcapping": model.logit_cap,
    }


def score_scale(config: "PreTrainedConfig") -> float:
    """Return the factor on the attention scores."""
    return float(config.query_pre_attn_scalar) ** -0.5


GEMMA2 = Family(
    model_type="gemma2",
    table=TABLE,
    attributes=LLAMA.attributes,
    config_class="Gemma2Config",
    specifics=specifics,
    rotary_dims=LLAMA.rotary_dims,
    score_scale=score_scale,
)
