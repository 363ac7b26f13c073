"""GPT-NeoX as in Pythia: QKV fused head by head, parallel residual, partial rotary (arXiv 2304.01373)."""

from typing import TYPE_CHECKING, Any

from grow.families.family import Family
from grow.families.settings import GptNeoxSettings
from grow.families.table import parse_table

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TABLE = parse_table("""
    gpt_neox.embed_in.weight                                  vocab, embed
    gpt_neox.layers.{layer}.input_layernorm.weight            normed ~ embed
    gpt_neox.layers.{layer}.input_layernorm.bias              normed
    gpt_neox.layers.{layer}.attention.query_key_value.weight  heads*(query|key|value) <- normed
    gpt_neox.layers.{layer}.attention.query_key_value.bias    heads*(query|key|value)
    gpt_neox.layers.{layer}.attention.dense.weight            embed <- heads*value
    gpt_neox.layers.{layer}.attention.dense.bias              embed
    gpt_neox.layers.{layer}.post_attention_layernorm.weight   normed ~ embed
    gpt_neox.layers.{layer}.post_attention_layernorm.bias     normed
    gpt_neox.layers.{layer}.mlp.dense_h_to_4h.weight          ffn <- normed
    gpt_neox.layers.{layer}.mlp.dense_h_to_4h.bias            ffn
    gpt_neox.layers.{layer}.mlp.dense_4h_to_h.weight          embed <- ffn
    gpt_neox.layers.{layer}.mlp.dense_4h_to_h.bias            embed
    gpt_neox.final_layer_norm.weight                          head_in ~ embed
    gpt_neox.final_layer_norm.bias                            head_in
    embed_out.weight                                          vocab <- head_in
""")


def specifics(model: GptNeoxSettings) -> dict[str, Any]:
    """Return the stock attributes of a GPT-NeoX besides its sizes."""
    rope = {"rope_type": "default", "rope_theta": model.rope_theta, "partial_rotary_factor": model.rotary_fraction}
    return {"initializer_range": model.init_std, "rope_parameters": rope}


def rotary_dims(config: "PreTrainedConfig") -> int:
    """Return how many elements at the front of each head are rotated."""
    head_dim = config.hidden_size // config.num_attention_heads
    dims = int(head_dim * config.rope_parameters.get("partial_rotary_factor", 1.0))
    return dims + dims % 2  # the stock class rotates whole pairs


GPT_NEOX = Family(
    model_type="gpt_neox",
    table=TABLE,
    attributes={
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
        "layers": "num_hidden_layers",
        "embed": "hidden_size",
        "heads": "num_attention_heads",
        "ffn": "intermediate_size",
    },
    config_class="GPTNeoXConfig",
    specifics=specifics,
    centred=True,
    rotary_dims=rotary_dims,
    renamed={"embed_out.weight": "lm_head.weight"},
)
