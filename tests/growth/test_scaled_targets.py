"""model=scaled: the source's own configuration with its sizes multiplied, in every command and from noise."""

import pytest
from transformers import LlamaConfig

from grow.cli.config import compose
from grow.cli.run_config import ChainConfig, EstimateConfig
from grow.common.errors import ConfigError, GrowthError
from grow.families.build import load_config
from grow.families.registry import stock_config
from grow.growth.planning import plan_of
from grow.growth.settings import GrowthSettings
from tests.growth.cases import make_source
from tests.growth.test_upcycled import dense, mixture

ROPE = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROPE["original_max_position_embeddings"] = 16
SCALED = ["model=scaled", "data.sequence_length=32"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tiny Llama with everything that no named model has: llama3 rope, biases, another activation and eps."""
    config = dense(rope_parameters=ROPE, attention_bias=True, mlp_bias=True, hidden_act="gelu", rms_norm_eps=3e-5)
    return make_source(config, tmp_path_factory.mktemp("scaled") / "source").directory


def test_only_the_sizes_of_a_scaled_target_differ_from_its_source(source):
    run = compose([*SCALED, "growth=hyperclone", f"growth.source={source}", "scale.ffn=3", "scale.layers=2"])
    before, after = load_config(source).to_dict(), run.architecture().to_dict()
    different = {name: (before[name], after[name]) for name in before if before[name] != after.get(name)}
    assert different == {
        "hidden_size": (32, 64),
        "num_attention_heads": (4, 8),
        "num_key_value_heads": (2, 4),
        "intermediate_size": (48, 144),
        "num_hidden_layers": (2, 4),
    }


def test_a_baseline_from_noise_has_the_architecture_of_the_grown_run(source):
    grown = compose([*SCALED, "growth=hyperclone", f"growth.source={source}"])
    noise = compose([*SCALED, "growth=none", f"growth.source={source}"])
    assert (noise.growth, noise.sources) == (None, grown.sources)
    assert noise.architecture().to_dict() == grown.architecture().to_dict()


def test_a_named_model_takes_any_attribute_of_its_stock_configuration(source):
    rope = "{rope_type: linear, factor: 2.0}"
    model = compose(["model=tiny", "+model.stock.attention_bias=true", f"+model.stock.rope_parameters={rope}"]).model
    config = stock_config(model)
    assert config.attention_bias
    assert config.rope_parameters == {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}
    for wrong, match in (("hiden_act=gelu", "LlamaConfig has no hiden_act"), ("hidden_size=8", "model's own keys")):
        with pytest.raises(ConfigError, match=match):
            stock_config(compose(["model=tiny", f"+model.stock.{wrong}"]).model)


def test_a_scaled_model_is_estimated_and_chained_like_a_named_one(source):
    given = [*SCALED, f"growth.source={source}", "scale.layers=4"]
    assert compose(given, "estimate", EstimateConfig).architecture().num_hidden_layers == 8
    from grow.chains.links import check, links_of

    # A link's sizes are shares of the target's, which has four times the layers of the source.
    chain = compose([*given, "chain=g_stack", "trainer.max_tokens=40_960"], "chain", ChainConfig)
    links = links_of(chain, [f"model.grown_from={source}", *SCALED, "scale.layers=4"], compose)
    check(links)
    assert [link.run.architecture().num_hidden_layers for link in links] == [2, 8]


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["model=scaled"], "needs a model whose sizes it multiplies"),
        (["model=tiny", "scale.embed=3"], "Add model=scaled"),
        (["model=scaled", "model.layers=3"], "no such key in ScaledSettings"),
        (["model=scaled", "growth=hyperclone", "growth.source=x", "scale.ffn=0.5"], r"scale\.ffn=0\.5.*at least 1"),
    ],
)
def test_what_a_scaled_model_cannot_be_is_refused(overrides, match):
    with pytest.raises(ConfigError, match=match):
        compose(overrides)


def test_a_longer_sequence_than_the_source_has_positions_for_is_refused(source):
    with pytest.raises(ConfigError, match=r"longer than model\.max_positions=32"):
        compose(["model=scaled", "growth=hyperclone", f"growth.source={source}"]).architecture()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (["growth=g_stack", "growth.sources=[A,B]"], "grows one model.*growth=join"),
        (["growth=branch_train_mix", "growth.sources=[A,B]", "growth.weights=[1,1]"], "reads none; growth=join does"),
        (["growth=hyperclone", "growth.source=A", "growth.weights=[1]"], "reads none"),
    ],
)
def test_several_sources_and_weights_are_refused_where_nothing_joins_them(settings, match):
    with pytest.raises(ConfigError, match=match):
        compose(["model=tiny", *settings])


@pytest.mark.parametrize(
    ("join", "number", "target", "match"),
    [
        ("experts", 3, mixture(number=2), "3 models for 2 experts"),
        ("experts", 2, dense(), "needs a mixture as target"),
        ("beside", 2, mixture(), "needs a mixture as target"),
    ],
)
def test_sources_that_the_target_cannot_hold_are_refused(join, number, target, match):
    growth = GrowthSettings(name="test", join=join, sources=["A", "B", "C"][:number])
    with pytest.raises(GrowthError, match=match):
        plan_of([None] * number, [dense()] * number, target, growth)


def test_a_trained_head_is_never_dropped_for_a_tied_one():
    tied = LlamaConfig.from_dict({**dense().to_dict(), "tie_word_embeddings": True, "num_hidden_layers": 4})
    with pytest.raises(GrowthError, match=r"Set model\.tied_head=false"):
        plan_of([None], [dense()], tied, GrowthSettings(name="test", depth="stack"))
