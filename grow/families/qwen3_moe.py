"""Qwen3-MoE: a Qwen3 whose feed-forward blocks are experts (arXiv 2505.09388)."""

from typing import TYPE_CHECKING, Any

from grow.families.experts import unpack_experts
from grow.families.family import Family
from grow.families.llama import LLAMA
from grow.families.mixture_settings import Qwen3MoeSettings
from grow.families.qwen3 import QWEN3
from grow.families.table import parse_table

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TABLE = parse_table("""
    model.embed_tokens.weight                                  vocab, embed
    model.layers.{layer}.input_layernorm.weight                normed ~ embed
    model.layers.{layer}.self_attn.q_proj.weight               heads*key <- normed
    model.layers.{layer}.self_attn.q_norm.weight               query ~ key
    model.layers.{layer}.self_attn.k_proj.weight               kv_heads*key <- normed
    model.layers.{layer}.self_attn.k_norm.weight               key ~ key
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


def specifics(model: Qwen3MoeSettings) -> dict[str, Any]:
    """Return the stock attributes of a Qwen3-MoE besides its sizes."""
    return {**LLAMA.specifics(model), "norm_topk_prob": True, "intermediate_size": model.ffn}


def unsupported(config: "PreTrainedConfig") -> str | None:
    """Return what the table does not describe: layers without experts, and biases."""
    if config.mlp_only_layers or config.decoder_sparse_step != 1:
        return "layers without experts (mlp_only_layers, decoder_sparse_step)"
    return "biases (attention_bias)" if config.attention_bias else None


QWEN3_MOE = Family(
    model_type="qwen3_moe",
    table=TABLE,
    attributes={
        **LLAMA.attributes,
        "ffn": "moe_intermediate_size",
        "experts": "num_experts",
        "active_experts": "num_experts_per_tok",
    },
    config_class="Qwen3MoeConfig",
    specifics=specifics,
    rotary_dims=lambda config: getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
    unsupported=unsupported,
    unpacked=unpack_experts("mlp", gate="gate_proj", up="up_proj", down="down_proj"),
    dense=QWEN3.model_type,
    dense_names={"mlp.experts.{expert}.": "mlp."},
)
