"""Qwen2 and Qwen2.5: a Llama with biases on queries, keys and values (arXiv 2407.10671)."""

from dataclasses import replace

from grow.families.llama import LLAMA

QWEN2 = replace(
    LLAMA,
    model_type="qwen2",
    attributes={size: name for size, name in LLAMA.attributes.items() if size != "head_dim"},
    config_class="Qwen2Config",
    rotary_dims=lambda config: config.hidden_size // config.num_attention_heads,
)
