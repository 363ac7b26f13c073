"""Gemma 3, its text models: a Gemma 2 with a norm over each head's queries and keys (arXiv 2503.19786).

Layers that see a window of tokens have rotary positions of their own base.
"""

from dataclasses import replace
from typing import Any

from grow.families.gemma2 import GEMMA2
from grow.families.settings import Gemma3Settings
from grow.families.table import parse_table

TABLE = parse_table("""
    model.embed_tokens.weight                               vocab, unscaled
    model.layers.{layer}.input_layernorm.weight             1 + normed ~ embed
    model.layers.{layer}.self_attn.q_proj.weight            heads*key <- normed
    model.layers.{layer}.self_attn.q_proj.bias              heads*key
    model.layers.{layer}.self_attn.q_norm.weight            1 + query ~ key
    model.layers.{layer}.self_attn.k_proj.weight            kv_heads*key <- normed
    model.layers.{layer}.self_attn.k_proj.bias              kv_heads*key
    model.layers.{layer}.self_attn.k_norm.weight            1 + key ~ key
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


def specifics(model: Gemma3Settings) -> dict[str, Any]:
    """Return the stock attributes of a Gemma 3 besides its sizes."""
    bases = {"full_attention": model.rope_theta, "sliding_attention": model.local_rope_theta}
    return {
        **GEMMA2.specifics(model),
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()},
    }


GEMMA3 = replace(GEMMA2, model_type="gemma3_text", table=TABLE, config_class="Gemma3TextConfig", specifics=specifics)
