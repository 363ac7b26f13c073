"""Pairs of architectures and checkpoints that no growth connects: one sentence each, before any weight is written."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPTNeoXConfig, LlamaConfig, OPTConfig

from grow.common.errors import CheckpointError, GrowthError
from grow.growth.depth import planned_layers
from grow.growth.made_tensors import GrowthPlan
from grow.growth.settings import GrowthSettings, ScaleSettings
from grow.growth.stored_dtype import coarsest_dtype
from tests.growth.cases import (
    _SIZES,
    CONFIGS,
    PRESETS,
    Source,
    grown_model,
    make_source,
    plan,
    preset,
    relative_difference,
)

LEMON = GrowthSettings(name="lemon", width="filled", share="uneven", depth="interpose", new_layers="identity")
HEAD_DIM = ScaleSettings(embed=2, heads=1, head_dim=2, ffn=1)


def changed(config, **values):
    return type(config).from_dict({**config.to_dict(), **values})


def test_a_head_that_is_missing_is_the_embedding_only_where_the_config_ties_the_two(tmp_path):
    source = make_source(CONFIGS["llama-gqa"], tmp_path / "source")
    file = source.directory / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if name != "lm_head.weight"}, file)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is missing"):
        plan(source, preset(), ScaleSettings())
    tied = Source(changed(source.config, tie_word_embeddings=True), source.directory, source.model)
    assert plan(tied, preset(), ScaleSettings())[0].preserves


def test_interposed_identities_copy_the_last_layer_of_their_group_as_llama_pro_does():
    growth = GrowthSettings(name="llama_pro", depth="interpose", new_layers="identity")
    assert planned_layers(growth, 32, 40)[:10] == [0, 1, 2, 3, 3, 4, 5, 6, 7, 7]
    assert planned_layers(growth, 2, 4) == [0, 0, 1, 1]
    assert planned_layers(replace(growth, new_layers="copied"), 3, 4) == [0, 0, 1, 2]


def test_the_tolerance_is_that_of_the_coarsest_tensor(tmp_path):
    source = make_source(CONFIGS["llama-gqa"], tmp_path / "source", dtype=torch.bfloat16)
    file = source.directory / "model.safetensors"
    tensors = load_file(file)
    save_file({name: each.float() if "embed_tokens" in name else each for name, each in tensors.items()}, file)
    made: GrowthPlan = plan(source, preset(), ScaleSettings())[0]
    assert coarsest_dtype(made) == torch.bfloat16
    assert {tensor.target.dtype for tensor in made.tensors} == {torch.float32, torch.bfloat16}


def test_a_pre_norm_opt_with_narrower_word_embeddings_is_refused_in_a_sentence(tmp_path):
    config = OPTConfig(**_SIZES, ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=True)
    source = make_source(config, tmp_path / "source")
    with pytest.raises(GrowthError, match="a final norm over 32 and word embeddings of 16"):
        plan(source, preset(), ScaleSettings())


def test_an_odd_number_of_rotary_dims_grows_in_heads_and_is_refused_in_head_dim(tmp_path):
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.4}
    config = GPTNeoXConfig(**_SIZES, intermediate_size=48, rope_parameters=rope)  # 3 of 8 elements, so two pairs
    source = make_source(config, tmp_path / "source")
    grown = grown_model(source, PRESETS["hyperclone_noisy"], ScaleSettings())
    assert relative_difference(source.model, grown) < 1e-10
    with pytest.raises(GrowthError, match="rotated elements of a head grow from 4 to 6"):
        plan(source, preset(), HEAD_DIM)


@pytest.mark.parametrize("name", ["opt", "gpt2"])
def test_another_number_of_learned_positions_is_refused_with_the_sources(sources, name):
    source = sources(name)
    attribute = "n_positions" if name == "gpt2" else "max_position_embeddings"
    with pytest.raises(GrowthError, match=r"positions: 32 in the source, 64 in the target.*model\.max_positions=32"):
        plan(source, preset(), changed(source.config, **{attribute: 64}))


def test_rotary_positions_that_scale_with_their_number_keep_it(tmp_path):
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    config = LlamaConfig(**_SIZES, intermediate_size=48, rope_parameters=rope)
    source = make_source(config, tmp_path / "source")
    assert plan(source, preset(), ScaleSettings())[0].preserves
    with pytest.raises(GrowthError, match="rope_type='dynamic', which scales with their number"):
        plan(source, preset(), changed(config, max_position_embeddings=16))


def test_lemon_makes_no_claim_on_an_opt_without_a_final_norm(tmp_path):
    config = OPTConfig(
        **_SIZES, ffn_dim=48, word_embed_proj_dim=32, tie_word_embeddings=False, _remove_final_layer_norm=True
    )
    source = make_source(config, tmp_path / "source")
    scale = ScaleSettings(embed=1.5, heads=1.5, ffn=1.5)
    assert plan(source, LEMON, scale)[0].reasons == ("no norm follows the last layer, so the head reads the filler",)
