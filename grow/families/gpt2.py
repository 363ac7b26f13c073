"""GPT-2: learned positions, LayerNorm before each sublayer, matrices stored transposed, one for query, key and value.

Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners.
"""

from typing import TYPE_CHECKING, Any

from grow.families.family import Family
from grow.families.settings import Gpt2Settings
from grow.families.table import parse_table

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TABLE = parse_table("""
    transformer.wte.weight                    vocab, embed
    transformer.wpe.weight                    positions, embed
    transformer.h.{layer}.ln_1.weight         normed ~ embed
    transformer.h.{layer}.ln_1.bias           normed
    transformer.h.{layer}.attn.c_attn.weight  normed -> (heads*query|heads*key|heads*value)
    transformer.h.{layer}.attn.c_attn.bias    (heads*query|heads*key|heads*value)
    transformer.h.{layer}.attn.c_proj.weight  heads*value -> embed
    transformer.h.{layer}.attn.c_proj.bias    embed
    transformer.h.{layer}.ln_2.weight         normed ~ embed
    transformer.h.{layer}.ln_2.bias           normed
    transformer.h.{layer}.mlp.c_fc.weight     normed -> ffn
    transformer.h.{layer}.mlp.c_fc.bias       ffn
    transformer.h.{layer}.mlp.c_proj.weight   ffn -> embed
    transformer.h.{layer}.mlp.c_proj.bias     embed
    transformer.ln_f.weight                   head_in ~ embed
    transformer.ln_f.bias                     head_in
    lm_head.weight                            vocab <- head_in
""")


def specifics(model: Gpt2Settings) -> dict[str, Any]:
    """Return the stock attributes of a GPT-2 besides its sizes."""
    return {
        "initializer_range": model.init_std,
        "resid_pdrop": model.dropout,
        "embd_pdrop": model.dropout,
        "attn_pdrop": model.dropout,
    }


def score_scale(config: "PreTrainedConfig") -> float:
    """Return the factor on the attention scores."""
    return (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0


GPT2 = Family(
    model_type="gpt2",
    table=TABLE,
    attributes={
        "vocab": "vocab_size",
        "positions": "n_positions",
        "layers": "n_layer",
        "embed": "n_embd",
        "heads": "n_head",
        "ffn": "n_inner",
    },
    config_class="GPT2Config",
    specifics=specifics,
    centred=True,
    score_scale=score_scale,
    unsupported=lambda config: "cross-attention (add_cross_attention)" if config.add_cross_attention else None,
    depends_on_place=lambda config: (
        "each divides its scores by its number (scale_attn_by_inverse_layer_idx)"
        if config.scale_attn_by_inverse_layer_idx
        else None
    ),
    derived={"ffn": lambda config: 4 * config.n_embd},
)
