"""Adam's moments through a growth: steps and growth commute under the dual rule, and do not without it."""

from copy import deepcopy
from dataclasses import dataclass, replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from grow.common.errors import ConfigError
from grow.families.registry import family_of
from grow.growth.moments import adam_factors, grow_adam_state, only_old
from grow.growth.settings import GrowthSettings, ScaleSettings
from tests.growth.cases import VOCABULARY, Source, grown_model, plan, some_tokens

BETAS, LR, DECAY, EPS = (0.9, 0.95), 1e-3, 0.1, 1e-9
EXACT = 1e-12


@dataclass(slots=True)
class ToyAdamW:
    """AdamW whose rate, decay and eps may differ from element to element; state is named as run checkpoints name it."""

    state: dict[str, torch.Tensor]
    factors: dict

    def train(self, model, first, steps):
        for number in range(first, first + steps):
            tokens = torch.randint(VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(number))
            model.zero_grad()
            logits = model(tokens[:, :-1]).logits
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    self._update(name, parameter)

    def _update(self, name, parameter):
        lr, decay, eps = self.factors.get(name, (1.0, 1.0, 1.0))
        m, v, step = (self.state[f"{name}/{key}"] for key in ("exp_avg", "exp_avg_sq", "step"))
        step += 1
        m.mul_(BETAS[0]).add_(parameter.grad, alpha=1 - BETAS[0])
        v.mul_(BETAS[1]).add_(parameter.grad.square(), alpha=1 - BETAS[1])
        parameter.sub_(LR * lr * DECAY * decay * parameter)
        corrected = (v / (1 - BETAS[1] ** step)).sqrt() + EPS * eps
        parameter.sub_(LR * lr * (m / (1 - BETAS[0] ** step)) / corrected)


def fresh_state(model):
    zeros = {
        f"{name}/{key}": torch.zeros_like(parameter)
        for name, parameter in model.named_parameters()
        for key in ("exp_avg", "exp_avg_sq")
    }
    return {**zeros, **{f"{name}/step": torch.zeros(()) for name, _ in model.named_parameters()}}


def exact_model(config):
    """Stock model whose softmax keeps float64."""
    own = deepcopy(config)  # the choice of attention would stick to it
    return AutoModelForCausalLM.from_config(own, dtype=torch.float64, attn_implementation="sdpa").eval()


def trained(source, directory, steps=3):
    """A stored source after some steps, and its optimizer state."""
    model = exact_model(source.config)
    model.load_state_dict(source.model.state_dict())
    adam = ToyAdamW(fresh_state(model), {})
    adam.train(model, 0, steps)
    model.save_pretrained(directory)
    return Source(source.config, directory, model), adam


def grow_both(source, adam, growth, scale, policy="exact"):
    """(grown model, its optimizer) from a trained source and its optimizer."""
    made, target = plan(source, growth, scale)
    model = exact_model(target)
    model.load_state_dict(grown_model(source, growth, scale).state_dict())
    renamed = family_of(target.model_type).renamed
    state = dict(grow_adam_state(made, [lambda name: adam.state[name].flatten()], policy, renamed))
    state = {name: tensor.reshape(()) if name.endswith("/step") else tensor.double() for name, tensor in state.items()}
    factors = {}
    for tensor in made.tensors:
        factor = adam_factors(tensor)
        factors[renamed.get(tensor.target.name, tensor.target.name)] = (factor.lr, factor.weight_decay, factor.eps)
    return model, ToyAdamW(state, factors)


def apart(before, after):
    tokens = some_tokens()
    with torch.no_grad():
        before, after = before(tokens).logits, after(tokens).logits
    return float((after - before).abs().max() / before.abs().max())


def commuted(sources, name, growth, scale, tmp_path, steps=4, damage=None):
    """Relative difference of: train, grow, train on; and train all along."""
    source, adam = trained(sources(name), tmp_path / "trained")
    model, grown_adam = grow_both(source, adam, growth, scale)
    if damage is not None:
        damage(model, grown_adam)
    assert apart(source.model, model) < EXACT
    grown_adam.train(model, 3, steps)
    adam.train(source.model, 3, steps)
    return apart(source.model, model)


GROWTHS = {
    "tile": (GrowthSettings(name="tile"), ScaleSettings()),
    "tile by three, FFN kept": (GrowthSettings(name="tile"), ScaleSettings(embed=3, heads=3, ffn=1)),
    "diagonal": (GrowthSettings(name="diagonal", share="diagonal"), ScaleSettings()),
    "dealt FFN in between": (GrowthSettings(name="dealt", width="dealt"), ScaleSettings(embed=1, heads=1, ffn=1.5)),
}
LAYOUTS = ["pythia-tied", "olmo-gqa", "olmo2-gqa-tied", "llama-gqa-tied"]


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("growth", GROWTHS)
def test_steps_of_adamw_commute_with_growth_under_the_dual_rule(sources, name, growth, tmp_path):
    assert commuted(sources, name, *GROWTHS[growth], tmp_path) < EXACT


@pytest.mark.parametrize("name", ["llama-mha", "olmo2-mha"])
def test_steps_commute_with_isometric_growth_to_a_width_that_no_factor_reaches(sources, name, tmp_path):
    growth = GrowthSettings(name="isometric", width="isometric")
    assert commuted(sources, name, growth, ScaleSettings(embed=1.5, heads=1.5, ffn=1.5), tmp_path) < EXACT


@pytest.mark.parametrize("name", ["llama-gqa", "pythia"])
def test_steps_commute_with_a_grown_head_dim(sources, name, tmp_path):
    scale = ScaleSettings(embed=2, heads=1, head_dim=2)
    assert commuted(sources, name, GrowthSettings(name="tile"), scale, tmp_path) < EXACT


DAMAGES = {
    "the old rate": lambda model, adam: adam.factors.clear(),
    "moments copied instead of divided": lambda model, adam: adam.state.update(
        {key: tensor * 2 for key, tensor in adam.state.items() if key.endswith("exp_avg")}
    ),
    "second moments divided once": lambda model, adam: adam.state.update(
        {key: tensor * 2 for key, tensor in adam.state.items() if key.endswith("exp_avg_sq")}
    ),
    "the step counter reset": lambda model, adam: adam.state.update(
        {key: torch.zeros(()) for key in adam.state if key.endswith("step")}
    ),
    "eps kept": lambda model, adam: adam.factors.update(
        {key: (lr, decay, 1e6) for key, (lr, decay, _) in adam.factors.items()}
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_one_part_of_the_rule_they_do_not_commute(sources, damage, tmp_path):
    different = commuted(sources, "llama-gqa", *GROWTHS["tile"], tmp_path, damage=DAMAGES[damage])
    assert different > 1e-7


def test_for_whole_copies_the_rule_is_the_rate_by_the_fan_in_and_the_moments_by_the_fan_out(sources):
    made, _ = plan(sources("llama-mha"), GrowthSettings(name="tile"), ScaleSettings(embed=2, heads=2, ffn=3))
    by_name = {tensor.target.name: tensor for tensor in made.tensors}
    up, down = (adam_factors(by_name[f"model.layers.0.mlp.{part}_proj.weight"]) for part in ("up", "down"))
    assert (float(up.lr.min()), float(up.lr.max()), float(up.weight_decay.max())) == (0.5, 0.5, 2.0)
    assert float(up.eps.max()) == pytest.approx(1 / 3)
    assert float(down.lr.max()) == pytest.approx(1 / 3)
    assert float(down.eps.max()) == 0.5
    for name in ("model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", "model.norm.weight"):
        assert float(adam_factors(by_name[name]).lr.unique()) == 1.0


def _state(sources, tmp_path, policy, growth=None, scale=None):
    source, adam = trained(sources("llama-gqa"), tmp_path / "trained")
    growth, scale = growth or GrowthSettings(name="tile"), scale or ScaleSettings()
    made, _ = plan(source, growth, scale)
    return made, adam, dict(grow_adam_state(made, [lambda name: adam.state[name]], policy))


def test_the_asymmetric_state_keeps_the_first_copies_moments_and_has_none_for_new_units(sources, tmp_path):
    _, adam, grown = _state(sources, tmp_path, "asymmetric")
    name = "model.layers.1.mlp.up_proj.weight"
    old, new = adam.state[f"{name}/exp_avg"], grown[f"{name}/exp_avg"]
    assert torch.equal(new[:48, :32], old / 2)
    assert not new[48:].any() and not new[:, 32:].any()
    assert torch.equal(grown[f"{name}/exp_avg_sq"][:48, :32], adam.state[f"{name}/exp_avg_sq"] / 4)
    assert grown[f"{name}/step"] == 3


def test_the_asymmetric_state_tells_copies_apart_from_unchanged_logits(sources, tmp_path):
    rows = {}
    for policy in ("exact", "asymmetric"):
        source, adam = trained(sources("llama-gqa"), tmp_path / policy)
        model, grown_adam = grow_both(source, adam, *GROWTHS["tile"], policy)
        assert apart(source.model, model) < EXACT
        grown_adam.train(model, 3, 4)
        rows[policy] = model.state_dict()["model.layers.0.mlp.up_proj.weight"].chunk(2)
    assert torch.allclose(*rows["exact"], rtol=0, atol=1e-12)
    assert (rows["asymmetric"][0] - rows["asymmetric"][1]).abs().max() > 1e-5


def test_new_layers_start_fresh_under_the_asymmetric_policy_and_as_copies_under_the_exact_one(sources, tmp_path):
    growth, scale = GrowthSettings(name="g_stack", depth="stack"), ScaleSettings(embed=1, heads=1, ffn=1, layers=2)
    _, adam, fresh = _state(sources, tmp_path, "asymmetric", growth, scale)
    _, _, copied = _state(sources, tmp_path, "exact", growth, scale)
    part = "mlp.down_proj.weight/exp_avg"
    assert torch.equal(fresh[f"model.layers.1.{part}"], adam.state[f"model.layers.1.{part}"])
    assert not fresh[f"model.layers.3.{part}"].any()
    assert fresh["model.layers.3.mlp.down_proj.weight/step"] == 0
    assert fresh["model.layers.1.mlp.down_proj.weight/step"] == 3
    assert torch.equal(copied[f"model.layers.3.{part}"], adam.state[f"model.layers.1.{part}"])


def test_a_reset_state_is_zero_and_reads_nothing(sources):
    made, _ = plan(sources("llama-gqa"), *GROWTHS["tile"])
    state = dict(grow_adam_state(made, [lambda name: pytest.fail("nothing is to be read")], "reset"))
    assert len(state) == 3 * len(made.tensors)
    assert not any(tensor.any() for tensor in state.values())


def test_names_follow_the_stock_module_on_both_sides(sources):
    made, _ = plan(sources("pythia"), *GROWTHS["tile"])
    asked = []

    def read(name):
        asked.append(name)
        return torch.zeros(()) if name.endswith("step") else torch.zeros(VOCABULARY * 32)

    made = replace(made, tensors=[tensor for tensor in made.tensors if tensor.target.name == "embed_out.weight"])
    grown = dict(grow_adam_state(made, [read], "exact", family_of("gpt_neox").renamed))
    assert set(asked) == {f"lm_head.weight/{key}" for key in ("exp_avg", "exp_avg_sq", "step")} == grown.keys()


def test_fillers_have_no_moments(sources):
    growth = GrowthSettings(name="lemon", width="filled")
    made, _ = plan(sources("llama-mha"), growth, ScaleSettings(embed=1.5, heads=1.5, ffn=1))
    tensor = next(tensor for tensor in made.tensors if tensor.target.name.endswith("0.self_attn.q_proj.weight"))
    kept = only_old(tensor, torch.ones(tensor.target.shape))
    assert kept[:32, :32].all() and int(kept.sum()) == 32 * 32


def test_an_unknown_policy_is_refused(sources):
    made, _ = plan(sources("llama-gqa"), *GROWTHS["tile"])
    with pytest.raises(ConfigError, match="exact, asymmetric, reset"):
        list(grow_adam_state(made, [lambda name: torch.zeros(())], "copy"))
