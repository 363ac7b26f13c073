"""Depth: the layer each rule takes, layers that start as identities, and what growing in depth does to the function."""

import pytest
import torch

from grow.common.errors import GrowthError
from grow.growth import one_source
from grow.growth.depth import layer_map, repeated_layers
from grow.growth.settings import GrowthSettings, ScaleSettings
from tests.growth.cases import CONFIGS, grown_model, grown_tensors, plan, relative_difference, some_tokens

EXACT = 1e-10
DEEPER = ScaleSettings(embed=1, heads=1, ffn=1, layers=2)
WIDER_AND_DEEPER = ScaleSettings(layers=2)
LAYOUTS = ["opt", "pythia", "olmo-mha", "olmo2-gqa-tied", "llama-gqa"]
RULES = ("stack", "top", "interpose", "overlap")


def depth(rule, new_layers="copied", **fields):
    return GrowthSettings(name="test", depth=rule, new_layers=new_layers, **fields)


@pytest.mark.parametrize(
    ("rule", "before", "after", "expected"),
    [
        ("stack", 3, 6, [0, 1, 2, 0, 1, 2]),
        ("stack", 3, 7, [0, 1, 2, 0, 1, 2, 0]),
        ("stack", 1, 4, [0, 0, 0, 0]),
        ("top", 3, 7, [0, 1, 2, 0, 1, 2, 2]),
        ("top", 3, 5, [0, 1, 2, 1, 2]),
        ("interpose", 3, 6, [0, 0, 1, 1, 2, 2]),
        ("interpose", 3, 4, [0, 0, 1, 2]),
        ("overlap", 4, 6, [0, 1, 2, 1, 2, 3]),
        ("overlap", 32, 48, [*range(24), *range(8, 32)]),
        ("same", 3, 3, [0, 1, 2]),
    ],
)
def test_each_rule_takes_the_layers_that_its_paper_says(rule, before, after, expected):
    assert layer_map(rule, before, after) == expected


@pytest.mark.parametrize("rule", RULES)
def test_every_source_layer_is_used_in_order_whatever_the_number_of_layers(rule):
    for before in (1, 2, 3, 5):
        for after in range(before, 2 * before + 1, 2 if rule == "overlap" else 1):
            if rule == "overlap" and after % 2 and after != before:
                continue
            layers = layer_map(rule, before, after)
            fresh = repeated_layers(layers)
            assert [layer for target, layer in enumerate(layers) if target not in fresh] == list(range(before))


@pytest.mark.parametrize(
    ("rule", "before", "after", "match"),
    [
        ("same", 3, 6, "layers: 3 in the source, 6 in the target.*growth=g_stack"),
        ("stack", 4, 3, "adds layers"),
        ("overlap", 4, 7, "even numbers up to 8"),
        ("overlap", 4, 10, "even numbers up to 8"),
    ],
)
def test_a_number_of_layers_out_of_reach_is_refused_with_what_reaches_it(rule, before, after, match):
    with pytest.raises(GrowthError, match=match):
        layer_map(rule, before, after)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("rule", ["stack", "interpose"])
def test_layers_that_start_as_identities_preserve_logits_in_depth_alone_and_with_width(sources, name, rule):
    source = sources(name)
    for scale in (DEEPER, ScaleSettings(embed=1, heads=1, ffn=1, layers=1.5), WIDER_AND_DEEPER):
        growth = depth(rule, "identity", snr_db=10.0)
        assert plan(source, growth, scale)[0].preserves
        assert relative_difference(source.model, grown_model(source, growth, scale)) < EXACT


@pytest.mark.parametrize("name", ["llama-gqa", "opt", "olmo2-gqa"])
def test_repeated_layers_change_the_function_and_the_plan_says_why(sources, name):
    source = sources(name)
    for rule in ("stack", "interpose"):
        made, _ = plan(source, depth(rule), DEEPER)
        assert not made.preserves
        assert "2 of 4 layers repeat another one" in made.reasons[0]
        assert relative_difference(source.model, grown_model(source, depth(rule), DEEPER)) > 1e-3


def test_a_layer_that_normalises_the_stream_is_no_identity_and_the_plan_says_so(sources):
    source = sources("opt-350m")
    growth = depth("stack", "identity")
    assert "normalise the residual stream" in plan(source, growth, DEEPER)[0].reasons[0]
    assert relative_difference(source.model, grown_model(source, growth, DEEPER)) > 1e-3


@pytest.mark.parametrize("name", LAYOUTS)
def test_only_the_last_projections_are_zero_and_their_gradients_are_not(sources, name):
    source = sources(name)
    grown = grown_model(source, depth("interpose", "identity"), DEEPER)
    tokens = some_tokens()
    grown(tokens, labels=tokens).loss.backward()
    zero = {key for key, parameter in grown.named_parameters() if not parameter.any()}
    ends = ("layernorm.weight",) if name.startswith("olmo2") else ("o_proj.weight", "o_proj.bias", "down_proj.weight")
    ends = (*ends, "down_proj.bias", "out_proj.weight", "out_proj.bias", "fc2.weight", "fc2.bias")
    ends = (*ends, "attention.dense.weight", "attention.dense.bias", "4h_to_h.weight", "4h_to_h.bias")
    assert zero
    assert all(f"layers.{layer}." in key for key in zero for layer in key.split(".") if layer.isdigit())
    assert all(key.endswith(ends) for key in zero)
    assert {int(part) for key in zero for part in key.split(".") if part.isdigit()} == {1, 3}
    assert all(parameter.grad.any() for key, parameter in grown.named_parameters() if key in zero)


def test_zeroed_projections_instead_of_gains_would_give_a_normed_branch_a_slope_of_a_thousand(sources, monkeypatch):
    source = sources("olmo2-gqa")
    right = grown_tensors(source, depth("stack", "identity"), DEEPER)
    assert not right["model.layers.2.post_attention_layernorm.weight"].any()
    assert right["model.layers.2.self_attn.o_proj.weight"].any()
    assert right["model.layers.2.mlp.down_proj.weight"].any()


def test_without_the_zeros_an_inserted_layer_changes_the_function(sources, monkeypatch):
    monkeypatch.setattr(one_source, "ends_branch", lambda table, line: False)
    source = sources("llama-gqa")
    assert relative_difference(source.model, grown_model(source, depth("stack", "identity"), DEEPER)) > 1e-3


@pytest.mark.parametrize("rule", RULES)
def test_each_layer_holds_its_source_layers_weights_in_storage_of_its_own(sources, rule):
    source = sources("llama-gqa")
    scale = ScaleSettings(embed=1, heads=1, ffn=1, layers=2)
    layers = layer_map(rule, 2, 4)
    grown = grown_model(source, depth(rule), scale).state_dict()
    for target, below in enumerate(layers):
        for part in ("self_attn.q_proj.weight", "mlp.down_proj.bias", "input_layernorm.weight"):
            expected = source.model.state_dict()[f"model.layers.{below}.{part}"]
            assert torch.equal(grown[f"model.layers.{target}.{part}"], expected)
    assert len({tensor.data_ptr() for tensor in grown.values()}) == len(grown)
    assert plan(source, depth(rule), scale)[0].layers == layers


def test_every_family_layout_is_covered_by_a_depth_test():
    assert set(LAYOUTS) <= CONFIGS.keys()
    assert {CONFIGS[name].model_type for name in LAYOUTS} == {config.model_type for config in CONFIGS.values()}
