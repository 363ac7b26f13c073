"""The hub's own config.json of each published source fits the target that names it."""

import json

import pytest

from grow.cli.config import compose
from grow.families.build import load_config
from grow.families.registry import family_of, stock_config
from grow.growth.axes import axis_maps
from grow.growth.compatible import check_growable
from grow.growth.settings import GrowthSettings

PYTHIA_410M = {
    "architectures": ["GPTNeoXForCausalLM"],
    "model_type": "gpt_neox",
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.24.0",
    "use_cache": True,
    "use_parallel_residual": True,
    "vocab_size": 50304,
}
OLMO_1B = {
    "architectures": ["OlmoForCausalLM"],
    "model_type": "olmo",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "clip_qkv": None,
    "eos_token_id": 50279,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 2048,
    "num_attention_heads": 16,
    "num_hidden_layers": 16,
    "num_key_value_heads": 16,
    "pad_token_id": 1,
    "pretraining_tp": 1,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "transformers_version": "4.40.0.dev0",
    "use_cache": True,
    "vocab_size": 50304,
}
OPT_1_3B = {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "activation_dropout": 0.0,
    "activation_function": "relu",
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "do_layer_norm_before": True,
    "dropout": 0.1,
    "eos_token_id": 2,
    "ffn_dim": 8192,
    "hidden_size": 2048,
    "init_std": 0.02,
    "layerdrop": 0.0,
    "max_position_embeddings": 2048,
    "num_attention_heads": 32,
    "num_hidden_layers": 24,
    "pad_token_id": 1,
    "prefix": "</s>",
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 50272,
    "word_embed_proj_dim": 2048,
}


@pytest.mark.parametrize(
    ("source", "target", "factors"),
    [
        (PYTHIA_410M, "pythia_1.4b", {"embed": 2, "heads": 2, "value": 1, "ffn": 2}),
        (PYTHIA_410M, "pythia_1.4b_hub", {"embed": 2, "heads": 1, "value": 2, "query": 2, "ffn": 2}),
        (OLMO_1B, "olmo_2.9b", {"embed": 2, "heads": 2, "value": 1, "ffn": 1}),
        (OPT_1_3B, "opt_5.3b", {"embed": 2, "heads": 2, "value": 1, "ffn": 2}),
    ],
    ids=["pythia_1.4b", "pythia_1.4b_hub", "olmo_2.9b", "opt_5.3b"],
)
def test_a_published_source_grows_into_the_target_that_names_it(source, target, factors, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(source))
    before = load_config(tmp_path)
    after = stock_config(compose([f"model={target}"]).model)
    family = family_of(before.model_type)
    check_growable(family, before, after)
    axes = axis_maps(family, before, after, GrowthSettings(name="hyperclone"))
    assert {name: axes[name].copies for name in factors} == factors
