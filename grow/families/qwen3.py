"""Qwen3: a Llama with an RMSNorm over each head's queries and keys, and a head_dim of its own (arXiv 2505.09388).

As in OLMo-2, the projections' rows repeat unscaled and the gains behind them carry the scale of the scores. One gain
serves all heads of a layer.
"""

from grow.families.family import Family
from grow.families.llama import LLAMA
from grow.families.table import parse_table

TABLE = parse_table("""
    model.embed_tokens.weight                             vocab, embed
    model.layers.{layer}.input_layernorm.weight           normed ~ embed
    model.layers.{layer}.self_attn.q_proj.weight          heads*key <- normed
    model.layers.{layer}.self_attn.q_proj.bias            heads*key
    model.layers.{layer}.self_attn.q_norm.weight          query ~ key
    model.layers.{layer}.self_attn.k_proj.weight          kv_heads*key <- normed
    model.layers.{layer}.self_attn.k_proj.bias            kv_heads*key
    model.layers.{layer}.self_attn.k_norm.weight          key ~ key
    model.layers.{layer}.self_attn.v_proj.weight          kv_heads*value <- normed
    model.layers.{layer}.self_attn.v_proj.bias            kv_heads*value
    model.layers.{layer}.self_attn.o_proj.weight          embed <- heads*value
    model.layers.{layer}.self_attn.o_proj.bias            embed
    model.layers.{layer}.post_attention_layernorm.weight  normed ~ embed
    model.layers.{layer}.mlp.gate_proj.weight             ffn <- normed
    model.layers.{layer}.mlp.up_proj.weight               ffn <- normed
    model.layers.{layer}.mlp.down_proj.weight             embed <- ffn
    model.norm.weight                                     head_in ~ embed
    lm_head.weight                                        vocab <- head_in
""")

QWEN3 = Family(
    model_type="qwen3",
    table=TABLE,
    attributes=LLAMA.attributes,
    config_class="Qwen3Config",
    specifics=LLAMA.specifics,
    rotary_dims=LLAMA.rotary_dims,
)
