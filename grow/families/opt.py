"""OPT: learned positions, ReLU, biases, LayerNorm before or after each sublayer (arXiv 2205.01068).

`word` is the width of the embedding table. In the hub's opt-350m it differs from `embed`: project_in reads `word`, and
project_out writes `head_in`. There project_out absorbs the 1/n of a grown residual stream, and the head stays as it is.
"""

from typing import TYPE_CHECKING, Any

from grow.families.family import Family
from grow.families.settings import OptSettings
from grow.families.table import parse_table

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

TABLE = parse_table("""
    model.decoder.embed_tokens.weight                         vocab, word
    model.decoder.embed_positions.weight                      positions, embed
    model.decoder.project_in.weight                           embed <- word
    model.decoder.layers.{layer}.self_attn_layer_norm.weight  normed ~ embed
    model.decoder.layers.{layer}.self_attn_layer_norm.bias    normed
    model.decoder.layers.{layer}.self_attn.q_proj.weight      heads*query <- normed
    model.decoder.layers.{layer}.self_attn.q_proj.bias        heads*query
    model.decoder.layers.{layer}.self_attn.k_proj.weight      heads*key <- normed
    model.decoder.layers.{layer}.self_attn.k_proj.bias        heads*key
    model.decoder.layers.{layer}.self_attn.v_proj.weight      heads*value <- normed
    model.decoder.layers.{layer}.self_attn.v_proj.bias        heads*value
    model.decoder.layers.{layer}.self_attn.out_proj.weight    embed <- heads*value
    model.decoder.layers.{layer}.self_attn.out_proj.bias      embed
    model.decoder.layers.{layer}.final_layer_norm.weight      normed ~ embed
    model.decoder.layers.{layer}.final_layer_norm.bias        normed
    model.decoder.layers.{layer}.fc1.weight                   ffn <- normed
    model.decoder.layers.{layer}.fc1.bias                     ffn
    model.decoder.layers.{layer}.fc2.weight                   embed <- ffn
    model.decoder.layers.{layer}.fc2.bias                     embed
    model.decoder.final_layer_norm.weight                     head_in ~ embed
    model.decoder.final_layer_norm.bias                       head_in
    model.decoder.project_out.weight                          head_in <- embed
    lm_head.weight                                            vocab <- head_in
""")


def specifics(model: OptSettings) -> dict[str, Any]:
    """Return the stock attributes of an OPT besides its sizes."""
    return {"init_std": model.init_std, "do_layer_norm_before": model.pre_norm, "dropout": model.dropout}


def unsupported(config: "PreTrainedConfig") -> str | None:
    """Return what the table does not describe: a final norm and a projection behind it."""
    if ends_in_norm(config) and config.word_embed_proj_dim != config.hidden_size:
        return (
            f"a final norm over {config.hidden_size} and word embeddings of {config.word_embed_proj_dim} "
            "(do_layer_norm_before, word_embed_proj_dim)"
        )
    return None


def ends_in_norm(config: "PreTrainedConfig") -> bool:
    """Return whether a norm follows the last layer."""
    return config.do_layer_norm_before and not config._remove_final_layer_norm


OPT = Family(
    model_type="opt",
    table=TABLE,
    attributes={
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
        "layers": "num_hidden_layers",
        "embed": "hidden_size",
        "word": "word_embed_proj_dim",
        "heads": "num_attention_heads",
        "ffn": "ffn_dim",
    },
    config_class="OPTConfig",
    specifics=specifics,
    centred=True,
    normalises_stream=lambda config: not config.do_layer_norm_before,
    ends_in_norm=ends_in_norm,
    unsupported=unsupported,
)
