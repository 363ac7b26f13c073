"""Experts from dense models: the dense logits where that is claimed, and everything that makes experts differ."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, FlexOlmoConfig, LlamaConfig, MixtralConfig, Olmo2Config

from grow.common.errors import ConfigError, GrowthError
from grow.families.build import load_config, model_on_meta, training_flops_per_token
from grow.families.weights import WeightReader
from grow.growth import upcycled
from grow.growth.run import grow
from grow.growth.settings import GrowthSettings
from tests.growth.cases import VOCABULARY, make_source, relative_difference, some_tokens

EXACT = 1e-10
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
DENSE = {"mixtral": (LlamaConfig, {"rms_norm_eps": 1e-5}), "flex_olmo": (Olmo2Config, {"rms_norm_eps": 1e-6})}


def dense(family="mixtral", **changed):
    kind, own = DENSE[family]
    rope = {"rope_type": "default", "rope_theta": 1e4}
    return kind(**{**SIZES, **own, "rope_parameters": rope, **changed})


def mixture(family="mixtral", number=4, active=2, **changed):
    rope = {"rope_type": "default", "rope_theta": 1e4}
    sizes = {**SIZES, **DENSE[family][1], "rope_parameters": rope, "num_experts_per_tok": active}
    sizes["experts_implementation"] = "eager"  # torch has no grouped product of doubles
    if family == "mixtral":
        return MixtralConfig(**{**sizes, "num_local_experts": number, **changed})
    return FlexOlmoConfig(**{**sizes, "num_experts": number, "norm_topk_prob": True, **changed})


@pytest.fixture(scope="module")
def dense_source(tmp_path_factory):
    """dense_source(family, seed): a stored random dense model, made once."""
    made = {}

    def get(family="mixtral", seed=0):
        if (family, seed) not in made:
            directory = tmp_path_factory.mktemp("dense") / f"{family}{seed}"
            made[family, seed] = make_source(dense(family), directory, seed=seed)
        return made[family, seed]

    return get


def reloaded(directory):
    """The stock model of a directory, with attention as the sources have it."""
    options = {"dtype": torch.float64, "attn_implementation": "eager", "experts_implementation": "eager"}
    return AutoModelForCausalLM.from_pretrained(directory, **options).eval()


def upcycle(source, target, directory, **fields):
    """(record, grown float64 model)."""
    record = grow(str(source.directory), directory, GrowthSettings(name="upcycle", **fields), target, some_tokens())
    return record, reloaded(directory)


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize(("number", "active"), [(4, 1), (4, 2), (3, 3)])
def test_a_mixture_of_copies_computes_what_the_dense_model_does(dense_source, tmp_path, family, number, active):
    source = dense_source(family)
    record, grown = upcycle(source, mixture(family, number, active), tmp_path / "grown")
    assert record.plan.preserves
    assert relative_difference(source.model, grown) < EXACT
    assert record.notice is None


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize(("number", "active", "shards"), [(8, 2, 2), (8, 4, 2), (6, 3, 3)])
def test_virtual_groups_of_shards_are_exact_with_the_scale_on_the_last_matrix(
    dense_source, tmp_path, family, number, active, shards
):
    source = dense_source(family)
    target = mixture(family, number, active, intermediate_size=48 // shards)
    record, grown = upcycle(source, target, tmp_path / "grown")
    assert record.plan.preserves
    assert relative_difference(source.model, grown) < EXACT


def test_shards_without_their_scale_or_without_whole_groups_are_not_exact(dense_source, tmp_path, monkeypatch):
    source = dense_source()
    narrow = {"intermediate_size": 24}
    record, grown = upcycle(source, mixture(number=8, active=3, **narrow), tmp_path / "odd")
    assert record.plan.reasons == ("3 active experts are not a whole number of groups of 2 shards",)
    assert relative_difference(source.model, grown) > 1e-3
    real = upcycled._shard

    def unscaled(tensor, line, shape, shard, shards):
        cut = real(tensor, line, shape, shard, shards)
        if line.reads != (("ffn",),):
            return cut
        return upcycled.replace(cut, columns=upcycled.replace(cut.columns, read=cut.columns.read / shards))

    monkeypatch.setattr(upcycled, "_shard", unscaled)
    with pytest.raises(GrowthError, match="does not compute its source's function"):
        upcycle(source, mixture(number=8, active=2, **narrow), tmp_path / "unscaled")


def test_width_depth_and_experts_grow_at_once(dense_source, tmp_path):
    source = dense_source()
    wide = {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 3}
    target = mixture(number=4, active=2, intermediate_size=96, **wide)
    fields = {"snr_db": 10.0, "depth": "interpose", "new_layers": "identity"}
    record, grown = upcycle(source, target, tmp_path / "grown", **fields)
    assert record.plan.preserves
    assert relative_difference(source.model, grown) < EXACT


def test_probabilities_that_do_not_add_up_to_one_change_the_function_and_the_plan_says_so(dense_source, tmp_path):
    source = dense_source("flex_olmo")
    record, grown = upcycle(source, mixture("flex_olmo", norm_topk_prob=False), tmp_path / "grown")
    assert "do not add up to one" in record.plan.reasons[0]
    assert relative_difference(source.model, grown) > 1e-9  # a norm follows, which hides most of the scale


def test_routers_are_drawn_with_their_deviation_one_row_for_each_group(dense_source, tmp_path):
    target = mixture(number=8, active=2, intermediate_size=24)
    upcycle(dense_source(), target, tmp_path / "grown", router_std=0.5)
    reader = WeightReader(tmp_path / "grown")
    routers = [reader.read(f"model.layers.{layer}.block_sparse_moe.gate.weight") for layer in (0, 1)]
    assert torch.equal(routers[0][0::2], routers[0][1::2])
    assert not torch.equal(routers[0], routers[1])
    assert float(routers[0].std()) == pytest.approx(0.5, rel=0.2)


def test_drop_upcycling_redraws_the_same_units_in_all_three_matrices_of_an_expert(dense_source, tmp_path):
    source = dense_source()
    record, grown = upcycle(source, mixture(), tmp_path / "grown", redrawn=0.5)
    assert record.plan.reasons == ("50% of each expert's hidden units are redrawn (growth.redrawn)",)
    assert relative_difference(source.model, grown) > 1e-3
    reader, weights = WeightReader(tmp_path / "grown"), source.model.state_dict()
    kept = []
    for expert in range(4):
        name = f"model.layers.0.block_sparse_moe.experts.{expert}."
        gate, up, down = (reader.read(f"{name}{part}.weight") for part in ("w1", "w3", "w2"))
        same = [
            (gate == weights["model.layers.0.mlp.gate_proj.weight"]).all(1),
            (up == weights["model.layers.0.mlp.up_proj.weight"]).all(1),
            (down == weights["model.layers.0.mlp.down_proj.weight"]).all(0),
        ]
        assert torch.equal(same[0], same[1]) and torch.equal(same[1], same[2])
        assert int(same[0].sum()) == 24
        kept.append(same[0])
        fresh = gate[~same[0]]
        assert float(fresh.std()) == pytest.approx(0.3, rel=0.2)
    assert len({tuple(each.tolist()) for each in kept}) == 4


def test_noise_tells_experts_apart_and_the_plan_says_that_it_does_not_cancel(dense_source, tmp_path):
    record, grown = upcycle(dense_source(), mixture(), tmp_path / "grown", expert_noise=0.01)
    assert "does not cancel" in record.plan.reasons[0]
    assert 1e-6 < relative_difference(dense_source().model, grown) < 0.2


def test_experts_of_two_sources_take_turns_and_the_rest_is_averaged(dense_source, tmp_path):
    first, second = (dense_source("mixtral", seed) for seed in (0, 1))
    sources = [str(first.directory), str(second.directory)]
    record, _ = upcycle(first, mixture(), tmp_path / "grown", sources=sources, join="experts")
    assert "experts come from 2 sources" in record.plan.reasons[0]
    reader, weights = WeightReader(tmp_path / "grown"), [source.model.state_dict() for source in (first, second)]
    for expert in range(4):
        name = f"model.layers.1.block_sparse_moe.experts.{expert}.w3.weight"
        assert torch.equal(reader.read(name), weights[expert % 2]["model.layers.1.mlp.up_proj.weight"])
    name = "model.layers.1.self_attn.q_proj.weight"
    assert torch.allclose(reader.read(name), (weights[0][name] + weights[1][name]) / 2, rtol=0, atol=1e-15)


def test_experts_of_one_source_named_twice_are_exact(dense_source, tmp_path):
    source = dense_source()
    record, grown = upcycle(source, mixture(), tmp_path / "grown", sources=[str(source.directory)] * 2, join="experts")
    assert record.plan.preserves
    assert relative_difference(source.model, grown) < EXACT


def _random_mixture(tmp_path):
    return make_source(mixture(), tmp_path / "mixture")


@pytest.mark.parametrize("width", [1, 2])
def test_duplicated_experts_are_exact_if_as_many_more_are_active(tmp_path, width):
    source = _random_mixture(tmp_path)
    wide = {"hidden_size": 32 * width, "num_attention_heads": 4 * width, "num_key_value_heads": 2 * width}
    target = mixture(number=8, active=4, **wide)
    growth = GrowthSettings(name="more experts", snr_db=10.0)
    record = grow(str(source.directory), tmp_path / "grown", growth, target, some_tokens())
    assert record.plan.preserves
    assert relative_difference(source.model, reloaded(tmp_path / "grown")) < EXACT


def test_duplicated_experts_of_which_no_more_are_active_change_the_function_and_the_plan_says_so(tmp_path):
    source = _random_mixture(tmp_path)
    growth = GrowthSettings(name="more experts")
    record = grow(str(source.directory), tmp_path / "grown", growth, mixture(number=8, active=2), some_tokens())
    assert "active ones from 2 to 2" in record.plan.reasons[0]
    assert relative_difference(source.model, reloaded(tmp_path / "grown")) > 1e-3


def test_the_written_directory_is_a_stock_mixture_and_says_what_each_expert_is(dense_source, tmp_path):
    upcycle(dense_source(), mixture(), tmp_path / "grown")
    config = load_config(tmp_path / "grown")
    assert (config.model_type, config.architectures, config.num_local_experts) == ("mixtral", ["MixtralForCausalLM"], 4)
    written = json.loads((tmp_path / "grown" / "growth.json").read_text())["tensors"]
    block = "model.layers.0.block_sparse_moe."
    assert written[f"{block}experts.3.w2.weight"]["source"] == "model.layers.0.mlp.down_proj.weight"
    assert written[f"{block}gate.weight"]["deviation"] == 0.02


def test_flops_count_active_experts_only():
    whole, half = (training_flops_per_token(model_on_meta(mixture(active=active)), 16) for active in (4, 2))
    assert whole - half == 6 * 2 * 2 * 3 * 32 * 48  # two layers, two experts, three matrices


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"intermediate_size": 20}, "ffn: 48 in the source, 20 in each of 4 experts"),
        ({"vocab_size": 64}, "vocab: 32 in the source, 64"),
        ({"hidden_act": "gelu"}, "hidden_act: 'silu' -> 'gelu'"),
    ],
)
def test_a_mixture_that_does_not_fit_is_refused_by_name(dense_source, tmp_path, changed, match):
    with pytest.raises(GrowthError, match=match):
        upcycle(dense_source(), mixture(**changed), tmp_path / "grown")


def test_biases_that_no_expert_has_are_refused(tmp_path):
    source = make_source(dense(mlp_bias=True), tmp_path / "biased")
    with pytest.raises(GrowthError, match="mlp_bias"):
        upcycle(source, mixture(), tmp_path / "grown")


def test_settings_of_experts_are_checked():
    with pytest.raises(ConfigError, match=r"redrawn=1\.5"):
        GrowthSettings(name="drop", redrawn=1.5)
