"""Adam's moments where experts or several sources come in: what commutes, what only its sum does, what is refused."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

from grow.common.errors import ConfigError
from grow.families.build import model_on_meta
from grow.families.experts import module_places
from grow.families.registry import family_of
from grow.families.weights import WeightReader
from grow.growth.group_norm import use_group_norms
from grow.growth.made_tensors import ExpertTensor, RouterTensor
from grow.growth.moments import adam_factors, grow_adam_state
from grow.growth.one_source import plan_one_source
from grow.growth.record import GrowthRecord
from grow.growth.settings import GrowthSettings
from grow.growth.tensor_writer import made_tensor
from grow.growth.upcycled import plan_upcycled
from tests.growth.cases import VOCABULARY, make_source, some_tokens
from tests.growth.test_joined import beside, joined, pairs  # noqa: F401 (a fixture)
from tests.growth.test_moments import EXACT, ToyAdamW, apart, exact_model, trained
from tests.growth.test_upcycled import dense, mixture

PLAIN = GrowthSettings(name="plain")


def places_of(config):
    return module_places(family_of(config.model_type), model_on_meta(config))


def reader_of(config, state):
    """Gives a run's state by the names of stored tensors."""
    places = places_of(config)

    def read(key):
        name, _, kind = key.rpartition("/")
        place = places[name]
        moment = state[f"{place.parameter}/{kind}"]
        return moment if kind == "step" else moment.flatten()[place.elements]

    return read


def packed(config, stored):
    """Stored tensors put together as the stock module holds them."""
    model, places = model_on_meta(config), places_of(config)
    whole = {name: torch.empty(parameter.numel()).double() for name, parameter in model.named_parameters()}
    for name, tensor in stored.items():
        whole[places[name].parameter][places[name].elements] = tensor.double().flatten()
    return {name: whole[name].view(parameter.shape) for name, parameter in model.named_parameters()}


@dataclass
class Grown:
    """A grown model and its optimizer, in memory."""

    plan: object
    model: object
    adam: ToyAdamW
    state: dict


def grow_both(source, adam, target, growth=PLAIN):
    """Grow a trained source and the moments of its run into an architecture with experts."""
    readers = [WeightReader(source.directory)]
    if source.config.model_type == target.model_type:
        plan = plan_one_source(readers[0], source.config, target, growth)
    else:
        plan = plan_upcycled(readers, [source.config], target, growth)
    model = exact_model(target)
    weights = {each.target.name: torch.cat(list(made_tensor(each, readers, 0))) for each in plan.tensors}
    model.load_state_dict(packed(target, weights))
    state = dict(grow_adam_state(plan, [reader_of(source.config, adam.state)], "exact"))
    moments = {f"{name}/step": state[f"{plan.tensors[0].target.name}/step"] for name, _ in model.named_parameters()}
    moments = {key: step.clone() for key, step in moments.items()}
    for kind in ("exp_avg", "exp_avg_sq"):
        named = {each.target.name: state[f"{each.target.name}/{kind}"] for each in plan.tensors}
        moments |= {f"{name}/{kind}": tensor for name, tensor in packed(target, named).items()}
    return Grown(plan, model, ToyAdamW(moments, _factors(plan, target)), state)


def _factors(plan, target):
    factors = {
        each.target.name: adam_factors(each.tensor if isinstance(each, ExpertTensor) else each)
        for each in plan.tensors
        if not isinstance(each, RouterTensor)
    }
    routers = [each.target for each in plan.tensors if isinstance(each, RouterTensor)]
    fields = {}
    for field, still in (("lr", 0.0), ("weight_decay", 0.0), ("eps", 1.0)):
        values = {name: getattr(factor, field) for name, factor in factors.items()}
        whole = {each.target.name: each.target.shape for each in plan.tensors}
        values = {name: value.expand(whole[name]) for name, value in values.items()}
        fields[field] = packed(target, values | {each.name: torch.full(each.shape, still) for each in routers})
    return {name: tuple(fields[field][name] for field in fields) for name in fields["lr"]}


def trained_source(config, tmp_path):
    return trained(make_source(config, tmp_path / "source"), tmp_path / "trained")


def commuted(source, adam, grown, steps=4):
    assert apart(source.model, grown.model) < EXACT
    grown.adam.train(grown.model, 3, steps)
    adam.train(source.model, 3, steps)
    return apart(source.model, grown.model)


@pytest.mark.parametrize("family", ["mixtral", "flex_olmo"])
@pytest.mark.parametrize("width", [1, 2])
def test_steps_commute_with_duplicated_experts(family, width, tmp_path):
    source, adam = trained_source(mixture(family), tmp_path)
    wide = {"hidden_size": 32 * width, "num_attention_heads": 4 * width, "num_key_value_heads": 2 * width}
    grown = grow_both(source, adam, mixture(family, 8, 4, **wide))
    assert commuted(source, adam, grown) < EXACT


def test_moments_of_duplicated_experts_that_are_not_divided_do_not_commute(tmp_path):
    source, adam = trained_source(mixture(), tmp_path)
    grown = grow_both(source, adam, mixture(number=8, active=4))
    grown.adam.state = {
        key: tensor * 2 if ".experts." in key and key.endswith("/exp_avg") else tensor
        for key, tensor in grown.adam.state.items()
    }
    assert commuted(source, adam, grown) > 1e-6


@pytest.mark.parametrize("family", ["mixtral", "flex_olmo"])
@pytest.mark.parametrize(("number", "narrow"), [(4, 1), (6, 2)])
def test_steps_commute_with_upcycling_under_a_router_that_gives_every_expert_as_much(family, number, narrow, tmp_path):
    source, adam = trained_source(dense(family), tmp_path)
    grown = grow_both(source, adam, mixture(family, number, number, intermediate_size=48 // narrow))
    for name, parameter in grown.model.named_parameters():
        if name.endswith(".gate.weight"):
            parameter.data.zero_()
    assert commuted(source, adam, grown) < EXACT


def test_under_a_drawn_router_only_the_experts_together_have_the_blocks_gradient(tmp_path):
    source, adam = trained_source(dense(), tmp_path)
    grown = grow_both(source, adam, mixture(), replace(PLAIN, router_std=1.0))
    tokens = some_tokens()
    for model in (source.model, grown.model):
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()
    block, experts = source.model.model.layers[0].mlp, grown.model.model.layers[0].mlp.experts
    together = experts.down_proj.grad.sum(0)
    assert torch.allclose(together, block.down_proj.weight.grad, rtol=0, atol=1e-12)
    assert not torch.allclose(experts.down_proj.grad[0] * 4, together, rtol=0, atol=1e-6)
    assert commuted(source, adam, grown) > 1e-6


def test_routers_and_redrawn_units_are_new(tmp_path):
    source, adam = trained_source(dense(), tmp_path)
    grown = grow_both(source, adam, mixture(), replace(PLAIN, redrawn=0.25))
    block = "model.layers.1.block_sparse_moe."
    assert not grown.state[f"{block}gate.weight/exp_avg"].any() and grown.state[f"{block}gate.weight/step"] == 0
    up, down = (grown.state[f"{block}experts.2.{part}.weight/exp_avg"] for part in ("w3", "w2"))
    assert int((up == 0).all(1).sum()) == 12
    assert torch.equal((up == 0).all(1), (down == 0).all(0))
    weight = WeightReader(source.directory).read("model.layers.1.mlp.up_proj.weight")
    made = next(each for each in grown.plan.tensors if each.target.name == f"{block}experts.2.w3.weight")
    redrawn = (torch.cat(list(made_tensor(made, [WeightReader(source.directory)], 0))) != weight).any(1)
    assert torch.equal(redrawn, (up == 0).all(1))


def test_noise_and_redrawn_units_tell_duplicated_experts_apart_and_the_plan_says_that_the_function_changes(tmp_path):
    source = make_source(mixture(), tmp_path / "source")
    reader = WeightReader(source.directory)

    def plan(**fields):
        growth = replace(PLAIN, **fields)
        made = plan_one_source(reader, source.config, mixture(number=8, active=4), growth)
        return GrowthRecord(growth=growth, lineage=None, plan=made, verification=None, renamed={})

    assert plan().plan.preserves and not plan().breaks_symmetry
    assert not plan(snr_db=10.0).breaks_symmetry  # no input has copies, so there is no noise that cancels
    assert plan(optimizer_state="asymmetric").breaks_symmetry
    noisy = plan(expert_noise=0.01)
    assert noisy.plan.reasons == ("noise on new experts does not cancel (growth.expert_noise)",)
    assert noisy.breaks_symmetry
    name = "model.layers.0.block_sparse_moe.experts.{}.w1.weight"
    made = {each.target.name: each for each in noisy.plan.tensors}
    old, new = (torch.cat(list(made_tensor(made[name.format(expert)], [reader], 0))) for expert in (1, 5))
    assert torch.equal(old, reader.read(name.format(1)))
    assert 0.005 < float((new - old).std() / old.std()) < 0.02


# Several sources


def same_model(model):
    """A copy whose softmax keeps float64."""
    copied = exact_model(model.config)
    copied.load_state_dict(model.state_dict())
    return copied


def moments_of(source, upstream):
    """One gradient as the first moment and its square as the second, of a loss that is linear in the logits."""
    model = same_model(source.model)
    (model(some_tokens()).logits * upstream).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    first = {f"{name}/exp_avg": gradient for name, gradient in gradients.items()}
    second = {f"{name}/exp_avg_sq": gradient.square() for name, gradient in gradients.items()}
    return first | second | {f"{name}/step": torch.tensor(3.0) for name in gradients}


@pytest.mark.parametrize("name", ["opt", "pythia-tied", "olmo2-gqa-tied", "llama-gqa"])
def test_joined_sources_keep_their_own_moments_times_their_weight_and_between_them_is_nothing(pairs, name):  # noqa: F811
    sources = pairs(name)
    growth = beside([source.directory for source in sources], weights=[0.3, 0.7])
    plan, model = joined(sources, growth)
    model = same_model(model)
    use_group_norms(model, [source.config for source in sources])
    upstream = torch.randn(2, 12, VOCABULARY, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    reads = [reader_of(source.config, moments_of(source, upstream)) for source in sources]
    (model(some_tokens()).logits * upstream).sum().backward()
    gradients = dict(model.named_parameters())
    renamed = family_of(model.config.model_type).renamed
    grown = dict(grow_adam_state(plan, reads, "asymmetric"))
    for tensor in plan.tensors:
        gradient = gradients[renamed.get(tensor.target.name, tensor.target.name)].grad
        own = torch.zeros(tensor.target.shape, dtype=torch.bool)
        for part in tensor.parts:
            rows, columns = len(part.tensor.rows.index), part.tensor.columns
            own[part.row : part.row + rows, ...][
                ..., part.column : None if columns is None or own.dim() == 1 else part.column + len(columns.index)
            ] = not part.tensor.repeats
        for power, kind in ((1, "exp_avg"), (2, "exp_avg_sq")):
            moment = grown[f"{tensor.target.name}/{kind}"]
            expected = torch.where(own, gradient**power, 0.0)
            assert (moment - expected).abs().max() <= EXACT * max(1.0, float(expected.abs().max())), tensor.target.name
        assert grown[f"{tensor.target.name}/step"] == 3


def test_sources_above_each_other_bring_each_their_own_moments(pairs):  # noqa: F811
    sources = pairs("llama-gqa")[:1] * 2
    plan, _ = joined(sources, beside([source.directory for source in sources], join="above"))
    plans = {each.source: each for each in plan.tensors}

    def read(key, number):
        if key.endswith("/step"):
            return torch.tensor(5.0 - number)
        own = plans[key.rpartition("/")[0]]
        shape = [each.source_length for each in (own.rows, own.columns) if each is not None]
        return torch.full(shape, number + 1.0)

    reads = [partial(read, number=number) for number in range(2)]
    grown = dict(grow_adam_state(plan, reads, "exact"))
    norm = "model.layers.{}.input_layernorm.weight/{}"
    assert [float(grown[norm.format(layer, "exp_avg")].unique()) for layer in range(4)] == [1, 1, 2, 2]
    assert [float(grown[norm.format(layer, "step")]) for layer in (0, 3)] == [5, 4]


def test_moments_that_no_source_has_had_are_refused_with_the_reason(pairs, tmp_path):  # noqa: F811
    sources = pairs("llama-gqa")
    plan, _ = joined(sources, beside([source.directory for source in sources]))
    with pytest.raises(ConfigError, match="between the sources too, and none of them has seen those"):
        list(grow_adam_state(plan, [], "exact"))
    two = [make_source(dense(), tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    readers = [WeightReader(source.directory) for source in two]
    plan = plan_upcycled(readers, [source.config for source in two], mixture(), PLAIN)
    for policy in ("exact", "asymmetric"):
        with pytest.raises(ConfigError, match="the mean of 2 sources, a point where none of them has had a gradient"):
            list(grow_adam_state(plan, [], policy))
