"""Several sources into one: exactly the weighted mean of their logits under one norm each, nearly under one for all."""

import json
from copy import deepcopy

import pytest
import torch
from transformers import AutoModelForCausalLM

from grow.common.errors import ConfigError, GrowthError
from grow.families.build import load_config
from grow.families.weights import WeightReader
from grow.growth.group_norm import anneal_group_norms, stream_size, use_group_norms
from grow.growth.joined import plan_joined
from grow.growth.run import grow
from grow.growth.settings import GrowthSettings
from grow.growth.target import joined_target
from tests.growth.cases import CONFIGS, Source, made_tensor, make_source, model_of, some_tokens

EXACT = 1e-12
LAYOUTS = ["opt", "opt-untied", "pythia", "pythia-tied", "olmo-gqa", "olmo2-gqa-tied", "llama-gqa", "llama-mqa-tied"]


def beside(directories, **fields):
    named = [str(directory) for directory in directories]
    return GrowthSettings(name="join", sources=named, **{"join": "beside", **fields})


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """pairs(name, number): sources of one family, of different weights and depth, and the second with more FFN."""
    made = {}

    def get(name, number=2):
        for index in range(number):
            if (name, index) not in made:
                config = CONFIGS[name]
                ffn = "ffn_dim" if config.model_type == "opt" else "intermediate_size"
                changed = {"num_hidden_layers": 2 + index, ffn: 48 + 8 * index}
                config = type(config).from_dict({**config.to_dict(), **changed})
                directory = tmp_path_factory.mktemp("join") / f"{name}-{index}"
                made[name, index] = make_source(config, directory, seed=index)
        return [made[name, index] for index in range(number)]

    return get


def joined(sources, growth, stream_sizes=None):
    """(plan, joined model in memory)."""
    configs = [source.config for source in sources]
    target = joined_target(configs, growth)
    readers = [WeightReader(source.directory) for source in sources]
    made = plan_joined(readers, configs, target, growth, stream_sizes)
    tensors = {tensor.target.name: torch.cat(list(made_tensor(tensor, readers, 0))) for tensor in made.tensors}
    return made, model_of(target, tensors, torch.float64)


def apart(sources, weights, model):
    """Worst difference from the weighted mean of the sources' logits, over the largest."""
    tokens = some_tokens()
    with torch.no_grad():
        expected = sum(weight * source.model(tokens).logits for source, weight in zip(sources, weights, strict=True))
        return float((model(tokens).logits - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", LAYOUTS)
def test_with_one_norm_for_each_source_the_logits_are_the_weighted_mean_of_the_sources(pairs, name):
    sources = pairs(name)
    for weights in (None, [0.3, 0.7], [1.0, 0.0]):
        growth = beside([source.directory for source in sources], weights=weights)
        made, model = joined(sources, growth)
        assert "sees them all together" in made.reasons[0]
        assert apart(sources, growth.shares_of_sources, model) > 1e-2
        use_group_norms(model, [source.config for source in sources])
        assert apart(sources, growth.shares_of_sources, model) < EXACT


def test_three_sources_join_as_two_do_and_their_order_moves_blocks_only(pairs):
    sources = pairs("llama-gqa", 3)
    for order in (sources, sources[::-1]):
        _, model = joined(order, beside([source.directory for source in order]))
        use_group_norms(model, [source.config for source in order])
        assert model.config.num_hidden_layers == 4
        assert model.config.hidden_size == 96
        assert apart(order, [1 / 3] * 3, model) < EXACT


@pytest.mark.parametrize("name", ["opt", "pythia", "olmo-mha", "olmo2-mha-tied", "llama-gqa-tied"])
def test_copies_of_one_model_are_exact_under_the_stock_norm(sources, name):
    source = sources(name)
    made, model = joined([source, source], beside([source.directory] * 2))
    assert made.preserves
    assert apart([source], [1.0], model) < EXACT


def test_balanced_streams_bring_the_stock_norm_nearer_to_the_mean(pairs, tmp_path):
    soft, loud = pairs("llama-gqa")
    writers = ("embed_tokens.weight", "o_proj.weight", "o_proj.bias", "down_proj.weight", "down_proj.bias")
    model = deepcopy(loud.model)
    for key, parameter in model.named_parameters():
        parameter.data.mul_(20.0 if key.endswith(writers) else 1.0)  # the same function, but for eps
    model.save_pretrained(tmp_path / "loud")
    sources = [soft, Source(loud.config, tmp_path / "loud", model)]
    sizes = [stream_size(source.directory, some_tokens()) for source in sources]
    assert sizes[1] / sizes[0] > 10
    growth = beside([source.directory for source in sources])
    plain, balanced = (joined(sources, growth, each)[1] for each in (None, sizes))
    assert apart(sources, [0.5, 0.5], balanced) < apart(sources, [0.5, 0.5], plain)
    use_group_norms(balanced, [source.config for source in sources])
    assert apart(sources, [0.5, 0.5], balanced) < 1e-4  # but for eps, which the scale moves


def test_the_anneal_ends_at_the_stock_model_and_only_then_can_be_saved(pairs, tmp_path):
    sources = pairs("pythia")
    growth = beside([source.directory for source in sources])
    _, model = joined(sources, growth)
    tokens = some_tokens()
    with torch.no_grad():
        stock = model(tokens).logits
        use_group_norms(model, [source.config for source in sources])
        assert (model(tokens).logits - stock).abs().max() > 1e-2
        with pytest.raises(GrowthError, match="cannot be a stock checkpoint"):
            model.save_pretrained(tmp_path / "refused")
        anneal_group_norms(model, 1.0)
        assert torch.allclose(model(tokens).logits, stock, rtol=0, atol=1e-10)
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float64, attn_implementation="eager")
    with torch.no_grad():
        assert torch.allclose(again(tokens).logits, stock, rtol=0, atol=1e-10)


def test_blocks_between_sources_start_at_zero_and_have_a_gradient(pairs):
    sources = pairs("llama-gqa")
    _, model = joined(sources, beside([source.directory for source in sources]))
    tokens = some_tokens()
    model(tokens, labels=tokens).loss.backward()
    weight = model.model.layers[0].mlp.up_proj.weight
    assert not weight[:48, 32:].any() and not weight[48:, :32].any()
    assert weight.grad[:48, 32:].any() and weight.grad[48:, :32].any()


def test_growing_several_sources_writes_a_stock_directory_that_says_what_it_is(pairs, tmp_path):
    sources = pairs("llama-gqa")
    for number, source in enumerate(sources):
        lineage = {"source": "noise", "digest": "", "tokens": 1000 * (number + 1), "flops": 5, "seconds": 2.0}
        (source.directory / "lineage.json").write_text(json.dumps(lineage))
    growth = beside([source.directory for source in sources], balance=True)
    target = joined_target([source.config for source in sources], growth)
    record = grow("not used", tmp_path / "joined", growth, target, some_tokens())
    written = json.loads((tmp_path / "joined" / "growth.json").read_text())
    assert (written["preserves"], record.lineage.tokens, record.lineage.flops) == (False, 3000, 10)
    assert record.lineage.source == " + ".join(growth.sources)
    parts = written["tensors"]["model.layers.0.mlp.up_proj.weight"]["parts"]
    assert [(part["reader"], part["row"], part["column"]) for part in parts] == [(0, 0, 0), (1, 48, 32)]
    assert load_config(tmp_path / "joined").hidden_size == 64
    assert "sees them all together" in record.notice


# One above the other


def test_sources_above_each_other_are_stacked_after_growing_to_one_width(pairs, tmp_path):
    wide = type(CONFIGS["llama-mha"]).from_dict(
        {**CONFIGS["llama-mha"].to_dict(), "hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 8}
    )
    small, big = make_source(CONFIGS["llama-mha"], tmp_path / "small"), make_source(wide, tmp_path / "big", seed=1)
    growth = beside([small.directory, big.directory], join="above")
    made, model = joined([small, big], growth)
    assert model.config.num_hidden_layers == 4
    assert not made.preserves
    grown, above = model.state_dict(), big.model.state_dict()
    assert torch.equal(grown["lm_head.weight"], above["lm_head.weight"])
    assert torch.equal(grown["model.layers.3.mlp.up_proj.weight"], above["model.layers.1.mlp.up_proj.weight"])
    table = small.model.state_dict()["model.embed_tokens.weight"]
    assert torch.equal(grown["model.embed_tokens.weight"], torch.cat([table, table], dim=1))
    below = small.model.state_dict()["model.layers.1.mlp.up_proj.weight"]
    assert torch.equal(grown["model.layers.1.mlp.up_proj.weight"], torch.cat([below, below], dim=1) / 2)


# Refusals


def test_sizes_that_do_not_add_up_are_refused_by_name(pairs):
    sources = pairs("llama-gqa")
    configs = [source.config for source in sources]
    readers = [WeightReader(source.directory) for source in sources]
    growth = beside([source.directory for source in sources])
    with pytest.raises(GrowthError, match=r"embed: 32 \+ 32 in the sources, 32 in the target"):
        plan_joined(readers, configs, configs[0], growth)
    above = beside([source.directory for source in sources], join="above")
    with pytest.raises(GrowthError, match=r"layers: 2 \+ 3 in the sources, 2 in the target"):
        plan_joined(readers, configs, configs[0], above)


def test_sources_of_other_groupings_or_families_are_refused(sources):
    mixed = [sources("llama-gqa"), sources("llama-mha")]
    growth = beside([source.directory for source in mixed])
    with pytest.raises(GrowthError, match=r"query heads for each key-value head: \[1, "):
        joined(mixed, growth)
    with pytest.raises(GrowthError, match="different families"):
        joined([sources("llama-gqa"), sources("opt-untied")], growth)


def test_settings_of_several_sources_are_checked_before_anything_is_read():
    with pytest.raises(ConfigError, match="expected two or more"):
        GrowthSettings(name="join", join="beside", sources=["a"])
    with pytest.raises(ConfigError, match="expected two or more"):
        GrowthSettings(name="join", join="beside", source="a", sources=["a", "b"])
    with pytest.raises(ConfigError, match="one for each of 2 sources"):
        GrowthSettings(name="join", join="beside", sources=["a", "b"], weights=[1.0])
