"""Mixtral: a Llama whose feed-forward blocks are experts; each token takes a weighted sum of k (arXiv 2401.04088).

The weights of the k experts add up to one (top-k before softmax, or equally: softmax, top-k, rescale). So where all
experts are equal, a token gets the output of one of them.
"""

from typing import Any

from grow.families.experts import unpack_experts
from grow.families.family import Family
from grow.families.llama import LLAMA
from grow.families.mixture_settings import MixtralSettings
from grow.families.table import parse_table

TABLE = parse_table("""
    model.embed_tokens.weight                                           vocab, embed
    model.layers.{layer}.input_layernorm.weight                         normed ~ embed
    model.layers.{layer}.self_attn.q_proj.weight                        heads*query <- normed
    model.layers.{layer}.self_attn.k_proj.weight                        kv_heads*key <- normed
    model.layers.{layer}.self_attn.v_proj.weight                        kv_heads*value <- normed
    model.layers.{layer}.self_attn.o_proj.weight                        embed <- heads*value
    model.layers.{layer}.post_attention_layernorm.weight                normed ~ embed
    model.layers.{layer}.block_sparse_moe.gate.weight                   experts <- normed
    model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight    ffn <- normed
    model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight    ffn <- normed
    model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight    embed <- ffn
    model.norm.weight                                                   head_in ~ embed
    lm_head.weight                                                      vocab <- head_in
""")


def specifics(model: MixtralSettings) -> dict[str, Any]:
    """Return the stock attributes of a Mixtral besides its sizes."""
    return {
        **LLAMA.specifics(model),
    }


MIXTRAL = Family(
    model_type="mixtral",
    table=TABLE,
    attributes={**LLAMA.attributes, "experts": "num_local_experts", "active_experts": "num_experts_per_tok"},
    config_class="MixtralConfig",
    specifics=specifics,
    rotary_dims=lambda config: config.head_dim or config.hidden_size // config.num_attention_heads,
    unpacked=unpack_experts("block_sparse_moe", gate="w1", up="w3", down="w2"),
    dense="llama",
    dense_names={
        "block_sparse_moe.experts.{expert}.w1.": "mlp.gate_proj.",
        "block_sparse_moe.experts.{expert}.w3.": "mlp.up_proj.",
        "block_sparse_moe.experts.{expert}.w2.": "mlp.down_proj.",
    },
)
