"""Mixtures in training: the routers' losses are their formulas, precision is right, no weight is passed over."""

import json
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import FlexOlmoConfig, MixtralConfig

from grow.families.build import model_from_noise
from grow.families.experts import by_parameter
from grow.families.registry import family_of
from grow.training.settings import ExpertsSettings, OptimizerSettings
from grow.training.step.optimizer import parameter_groups
from grow.training.step.routing import Routing, assignments, prepare_experts, routers_of, routing_losses

LAYERS, TOKENS, EXPERTS = 2, 48, 8
SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 16, "num_experts_per_tok": 2, "pad_token_id": None}
CONFIGS = {"mixtral": MixtralConfig(**SIZES, num_local_experts=4), "flex_olmo": FlexOlmoConfig(**SIZES, num_experts=4)}
STRICT = ExpertsSettings(name="test")


def shares_of(logits, active):
    counts = assignments(logits, active).double()
    return counts / counts.sum(-1, keepdim=True)


def one_hot_logits(chosen, strength=60.0):
    """Logits of routers that are sure of the experts given for each token, (layers, T, k)."""
    logits = torch.zeros(*chosen.shape[:2], EXPERTS, dtype=torch.float64)
    return logits.scatter_(-1, chosen, strength)


@pytest.mark.parametrize("active", [1, 2])
def test_even_routing_has_a_balance_loss_of_1(active):
    chosen = (torch.arange(TOKENS)[:, None] * active + torch.arange(active)) % EXPERTS
    logits = one_hot_logits(chosen.expand(LAYERS, TOKENS, active))
    assert routing_losses(logits, shares_of(logits, active))[0] == pytest.approx(1)


@pytest.mark.parametrize("active", [1, 2])
def test_tokens_that_all_go_to_the_same_experts_have_one_of_experts_over_active(active):
    logits = one_hot_logits(torch.arange(active).expand(LAYERS, TOKENS, active))
    assert routing_losses(logits, shares_of(logits, active))[0] == pytest.approx(EXPERTS / active)


def test_layers_that_collapse_on_different_experts_are_not_even():
    chosen = torch.stack([torch.full((TOKENS, 1), layer) for layer in range(EXPERTS)])
    logits = one_hot_logits(chosen)
    assert routing_losses(logits, shares_of(logits, 1))[0] == pytest.approx(EXPERTS)
    pooled = logits.flatten(0, 1)[None]  # as Transformers' own loss has it
    assert routing_losses(pooled, shares_of(pooled, 1))[0] == pytest.approx(1)


def test_zero_logits_have_the_square_of_log_n_as_z_loss():
    logits = torch.zeros(LAYERS, TOKENS, EXPERTS, dtype=torch.float64)
    assert routing_losses(logits, shares_of(logits, 1))[1] == pytest.approx(math.log(EXPERTS) ** 2)


def test_both_gradients_are_their_formulas():
    torch.manual_seed(0)
    logits = torch.randn(LAYERS, TOKENS, EXPERTS, dtype=torch.float64).requires_grad_()
    f, p = shares_of(logits.detach(), 2), torch.softmax(logits.detach(), -1)
    balance, z = routing_losses(logits, f)
    (of_balance,), (of_z,) = (torch.autograd.grad(loss, logits, retain_graph=True) for loss in (balance, z))
    mean = (f[:, None] * p).sum(-1, keepdim=True)
    torch.testing.assert_close(of_balance, EXPERTS / TOKENS * p * (f[:, None] - mean) / LAYERS, rtol=1e-12, atol=1e-14)
    logsumexp = torch.logsumexp(logits.detach(), -1, keepdim=True)
    torch.testing.assert_close(of_z, 2 / TOKENS * logsumexp * p / LAYERS, rtol=1e-12, atol=1e-14)


def test_over_a_step_halves_on_disjoint_experts_are_even_and_over_micro_batches_they_are_not():
    halves = [one_hot_logits((torch.arange(TOKENS)[:, None] % 4 + start).expand(1, TOKENS, 1)) for start in (0, 4)]
    over_step = Routing(settings=ExpertsSettings(name="x", balance_over="step"), active=1)
    alone = Routing(settings=ExpertsSettings(name="x", balance_over="micro_batch"), active=1)
    found = [[float(routing.loss([half[0]], step=0).balance) for half in halves] for routing in (over_step, alone)]
    assert found[0] == pytest.approx([2, 1])
    assert found[1] == pytest.approx([2, 2])
    assert float(over_step.loss([halves[0][0]], step=1).balance) == pytest.approx(2)  # a step begins anew


@pytest.mark.parametrize("name", CONFIGS)
def test_in_float32_a_prepared_mixture_computes_the_stock_bits(name):
    tokens = torch.randint(40, (2, 9))
    stock, prepared = (model_from_noise(CONFIGS[name], seed=0) for _ in range(2))
    prepare_experts(prepared, STRICT)
    assert len(routers_of(prepared)) == 2
    assert torch.equal(prepared(input_ids=tokens).logits, stock(input_ids=tokens).logits)


class _Products(TorchDispatchMode):
    """Records the dtypes of the operands of products: of grouped ones, and of those with a router's weight."""

    def __init__(self, router_shapes):
        super().__init__()
        self.grouped, self.routers, self._shapes = set(), set(), router_shapes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "grouped_mm" in str(func):
            self.grouped.add(args[1].dtype)
        elif func is torch.ops.aten.mm.default and tuple(args[1].shape[::-1]) in self._shapes:
            self.routers.add(args[1].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CONFIGS)
def test_under_bf16_experts_multiply_in_bfloat16_and_routers_in_float32(name):
    model = model_from_noise(CONFIGS[name], seed=0)
    prepare_experts(model, STRICT)
    with _Products({(4, 16)}) as seen, torch.autocast("cpu", torch.bfloat16):
        logits = model.base_model(input_ids=torch.randint(40, (2, 9)), output_router_logits=True).router_logits
    assert seen.grouped == {torch.bfloat16}
    assert seen.routers == {torch.float32}
    assert {each.dtype for each in logits} == {torch.float32}


@pytest.mark.parametrize("name", CONFIGS)
def test_decay_and_divided_rates_reach_every_expert_and_router(name):
    model = model_from_noise(CONFIGS[name], seed=0)
    family = family_of(model.config.model_type)
    stored = {f"model.layers.{layer}.{part}": 2.0 for layer in range(2) for part in _grown(family)}
    settings = OptimizerSettings(name="x", lr=1.0, divide_grown_lr=True)
    groups = parameter_groups(model, settings, by_parameter(family, model, stored))
    group_of = {id(parameter): group for group in groups for parameter in group["params"]}
    for layer in model.get_decoder().layers:
        for weight in (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj, layer.mlp.gate.weight):
            assert (group_of[id(weight)]["peak_lr"], group_of[id(weight)]["weight_decay"]) == (0.5, 0.2)
    assert group_of[id(model.get_input_embeddings().weight)]["weight_decay"] == 0


def _grown(family):
    if family.model_type == "mixtral":
        return (
            "block_sparse_moe.gate.weight",
            "block_sparse_moe.experts.0.w1.weight",
            "block_sparse_moe.experts.0.w2.weight",
        )
    return ("mlp.gate.weight", "mlp.experts.0.gate_proj.weight", "mlp.experts.0.down_proj.weight")


MIXTURE = (
    "model=tiny_mixtral",
    "growth=none",
    "model.kv_heads=2",
    "trainer.log_every_steps=1",
    "trainer.micro_batch=2",
)


def test_a_mixtures_rows_say_how_even_it_routes_and_its_exported_model_keeps_the_strength(trained_once, rows):
    run = trained_once(*MIXTURE, "experts.balance=0.02")
    trained = [row for row in rows(run) if "train/loss" in row]
    for row in trained:
        assert 1 <= row["experts/load_max"] <= 4 and 0 <= row["experts/load_min"] <= 1
        assert 0 < row["experts/router_entropy"] <= 1 and row["experts/z_loss"] > 0
        assert 0.9 < row["experts/balance_loss"] < 2 and row["experts/dead"] == int(row["experts/load_min"] == 0)
    assert json.loads((run / "model/config.json").read_text())["router_aux_loss_coef"] == 0.01
    assert "experts_implementation" not in (run / "model/config.json").read_text()


def test_a_dense_models_rows_have_nothing_of_experts(trained_once, rows):
    assert not any(name.startswith("experts/") for row in rows(trained_once()) for name in row)


@pytest.mark.slow
def test_without_weights_on_its_losses_a_mixture_trains_on_cross_entropy_alone(trained_once):
    none, unweighted, balanced = (
        (trained_once(*MIXTURE, *more) / "model/model.safetensors").read_bytes()
        for more in (["experts=none"], ["experts.balance=0", "experts.z=0"], ["experts.balance=1"])
    )
    assert none == unweighted != balanced
