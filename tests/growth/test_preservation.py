"""A grown model computes its source's function: every preset, family, layout and factor; and what must break it."""

from dataclasses import replace

import pytest
import torch

from grow.common.errors import GrowthError
from grow.growth import axes, maps, one_source
from grow.growth.settings import ScaleSettings
from tests.growth.cases import CONFIGS, PRESETS, grown_model, preset, relative_difference

EXACT = 1e-10
ROTARY = [name for name in CONFIGS if not name.startswith("opt")]


@pytest.mark.parametrize("ffn", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("factor", [2, *(pytest.param(factor, marks=pytest.mark.slow) for factor in (3, 4))])
@pytest.mark.parametrize("growth", PRESETS)
@pytest.mark.parametrize("name", CONFIGS)
def test_cloning_heads_and_width_preserves_logits(sources, name, growth, factor, ffn):
    source = sources(name)
    grown = grown_model(source, PRESETS[growth], ScaleSettings(embed=factor, heads=factor, ffn=ffn))
    assert relative_difference(source.model, grown) < EXACT


@pytest.mark.parametrize("factor", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("growth", ["hyperclone", "hyperclone_diagonal_noisy"])
@pytest.mark.parametrize("name", CONFIGS)
def test_growing_head_dim_preserves_logits_also_under_rotary_positions(sources, name, growth, factor):
    source = sources(name)
    scale = ScaleSettings(embed=factor, heads=1, head_dim=factor, ffn=1)
    assert relative_difference(source.model, grown_model(source, PRESETS[growth], scale)) < EXACT


@pytest.mark.parametrize("name", CONFIGS)
def test_heads_and_head_dim_grow_together(sources, name):
    source = sources(name)
    scale = ScaleSettings(embed=6, heads=3, head_dim=2, ffn=2)
    assert relative_difference(source.model, grown_model(source, PRESETS["hyperclone_noisy"], scale)) < EXACT


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("name", ["llama-gqa", "olmo2-gqa-tied", "llama-mqa"])
def test_query_heads_grow_with_kept_partly_grown_or_tiled_key_value_heads(sources, name, kv_heads):
    source = sources(name)
    scale = ScaleSettings(embed=4, heads=4, kv_heads=kv_heads)
    grown = grown_model(source, PRESETS["hyperclone_noisy"], scale)
    assert grown.config.num_key_value_heads == kv_heads * source.config.num_key_value_heads
    assert relative_difference(source.model, grown) < EXACT


def test_a_single_key_value_head_stays_single_by_default(sources):
    grown = grown_model(sources("llama-mqa"), preset(), ScaleSettings())
    assert grown.config.num_key_value_heads == 1


@pytest.mark.parametrize("name", ["llama-gqa", "llama-mha-tied"])
def test_llama_widths_are_free_of_each_other(sources, name):
    source = sources(name)
    for scale in (ScaleSettings(embed=3, heads=1, ffn=1), ScaleSettings(embed=1, heads=2, ffn=5)):
        assert relative_difference(source.model, grown_model(source, PRESETS["hyperclone_noisy"], scale)) < EXACT


@pytest.mark.parametrize("name", ["opt", "pythia", "olmo2-gqa", "llama-gqa-tied"])
def test_growth_by_one_returns_the_same_weights(sources, name):
    source = sources(name)
    same = grown_model(source, preset("none"), ScaleSettings(embed=1, heads=1, ffn=1))
    for key, tensor in same.state_dict().items():
        assert torch.equal(tensor, source.model.state_dict()[key])


def test_growing_twice_by_two_equals_growing_once_by_four(sources, tmp_path):
    source = sources("llama-mha")
    once = grown_model(source, preset(), ScaleSettings(embed=4, heads=4, ffn=4))
    half = grown_model(source, preset(), ScaleSettings())
    half.save_pretrained(tmp_path / "half")
    from tests.growth.cases import Source

    twice = grown_model(Source(half.config, tmp_path / "half", half), preset(), ScaleSettings())
    for key, tensor in once.state_dict().items():
        assert torch.allclose(tensor, twice.state_dict()[key], rtol=0, atol=1e-15)


# What must break, so that none of the corrections can be a silent no-op.


def _broken(source, scale=None):
    return relative_difference(source.model, grown_model(source, preset(), scale or ScaleSettings())) > 1e-3


@pytest.mark.parametrize("name", ["opt", "pythia-tied", "olmo2-mha-tied", "llama-gqa-tied"])
def test_without_the_tied_head_correction_logits_are_too_large(sources, name, monkeypatch):
    monkeypatch.setattr(axes, "head_input", lambda word, tied: word)
    assert _broken(sources(name))


def test_scaling_the_head_of_opt_350m_again_breaks_it(sources, monkeypatch):
    # its project_out already absorbs the factor; the authors' code divides once more (reference 5)
    real = one_source.axis_maps

    def scaled_twice(*arguments):
        axes = real(*arguments)
        axes["head_in"] = replace(axes["head_in"], expand=axes["head_in"].expand / 2)
        return axes

    monkeypatch.setattr(one_source, "axis_maps", scaled_twice)
    assert _broken(sources("opt-350m"))


HEAD_DIM = ScaleSettings(embed=2, heads=1, head_dim=2, ffn=1)


@pytest.mark.parametrize("name", ["opt", "opt-350m", "pythia"])
def test_without_the_query_scale_scores_are_too_large(sources, name, monkeypatch):
    monkeypatch.setattr(maps, "query_of_tiled_head", maps.tile)
    assert _broken(sources(name), HEAD_DIM)


@pytest.mark.parametrize("name", ["opt", "llama-mha", "pythia"])
def test_copies_of_head_dim_must_lie_inside_their_head(sources, name, monkeypatch):
    real = maps.product

    def tiled_whole(outer, inner):
        right = real(outer, inner)
        wrong = right.index.view(len(outer.index), int(inner.copies), -1).transpose(0, 1).reshape(-1)
        return replace(right, index=wrong)

    monkeypatch.setattr(maps, "product", tiled_whole)
    assert _broken(sources(name), HEAD_DIM)


@pytest.mark.parametrize("name", ["pythia", "olmo-mha", "olmo2-gqa", "llama-gqa"])
def test_plain_tiling_of_head_dim_breaks_rotary_positions(sources, name, monkeypatch):
    monkeypatch.setattr(maps, "query_under_rotary", maps.query_of_tiled_head)
    monkeypatch.setattr(maps, "key_under_rotary", maps.tile)
    assert _broken(sources(name), HEAD_DIM)


def test_query_copies_outside_their_group_break_grouped_queries(sources, monkeypatch):
    def appended(sizes, kv_heads):
        return maps.tile(sizes.before["heads"], sizes.after["heads"] // sizes.before["heads"])

    monkeypatch.setattr(axes, "_heads", appended)
    assert _broken(sources("llama-gqa"), ScaleSettings(kv_heads=1))


def test_olmo_cannot_stay_tied_and_says_what_to_do(sources):
    source = sources("olmo-mha-tied")
    target = type(source.config).from_dict(
        {**source.config.to_dict(), "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 8}
    )
    from grow.families.weights import WeightReader

    with pytest.raises(GrowthError, match=r"model\.tied_head=false"):
        one_source.plan_one_source(WeightReader(source.directory), source.config, target, preset())


def test_a_tied_olmo_is_untied_when_no_target_is_named(sources):
    grown = grown_model(sources("olmo-mha-tied"), preset(), ScaleSettings())
    assert not grown.config.tie_word_embeddings
