"""Which weights decay, and which learning rate each gets."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, OPTConfig

from grow.families.build import model_from_noise
from grow.training.settings import OptimizerSettings
from grow.training.step.optimizer import build_optimizer, parameter_groups, set_learning_rates

SETTINGS = OptimizerSettings(name="test", lr=1e-2, weight_decay=0.1)
SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
OPT = OPTConfig(**SIZES, ffn_dim=24, max_position_embeddings=16, word_embed_proj_dim=8)


def group_of(model: nn.Module, settings=SETTINGS, copies=None) -> dict[str, dict]:
    """Parameter name -> its group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, settings, copies or {})
    return {names[id(parameter)]: group for group in groups for parameter in group["params"]}


def test_only_matrices_of_linear_layers_decay():
    groups = group_of(model_from_noise(OPT, seed=0))
    decayed = {name for name, group in groups.items() if group["weight_decay"] > 0}
    expected = {
        *("model.decoder.project_in.weight", "model.decoder.project_out.weight"),
        *(f"model.decoder.layers.0.self_attn.{kind}_proj.weight" for kind in ("q", "k", "v", "out")),
        *(f"model.decoder.layers.0.{kind}.weight" for kind in ("fc1", "fc2")),
    }
    assert decayed == expected  # no bias, no norm, no table, and not the head: OPT ties it to the embedding
    assert groups.keys() == dict(model_from_noise(OPT, seed=0).named_parameters()).keys()


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_decays_unless_it_is_the_embedding(tied):
    model = model_from_noise(LlamaConfig(**SIZES, intermediate_size=24, tie_word_embeddings=tied), seed=0)
    groups = group_of(model)
    assert groups["model.embed_tokens.weight"]["weight_decay"] == 0
    assert ("lm_head.weight" in groups) == (not tied)
    if not tied:
        assert groups["lm_head.weight"]["weight_decay"] == 0.1


def test_a_grown_weight_learns_slower_by_its_copies_and_decays_at_the_same_speed():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    settings = OptimizerSettings(name="test", lr=1e-2, weight_decay=0.1, divide_grown_lr=True)
    groups = group_of(model, settings, {"1.weight": 4})
    grown, plain = groups["1.weight"], groups["0.weight"]
    assert grown["peak_lr"] == pytest.approx(1e-2 / 4)
    assert plain["peak_lr"] == pytest.approx(1e-2)
    assert grown["peak_lr"] * grown["weight_decay"] == pytest.approx(plain["peak_lr"] * plain["weight_decay"])


def test_copies_change_nothing_unless_asked_to():
    groups = group_of(nn.Sequential(nn.Linear(4, 4)), SETTINGS, {"0.weight": 4})
    assert groups["0.weight"]["peak_lr"] == 1e-2


def test_the_schedule_scales_every_groups_own_peak():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    settings = OptimizerSettings(name="test", lr=1e-2, divide_grown_lr=True)
    optimizer = build_optimizer(model, settings, {"1.weight": 2})
    for share in (0.5, 0.1):  # twice: a rate must not be scaled by what it was scaled before
        set_learning_rates(optimizer, share)
        assert {group["lr"] for group in optimizer.param_groups} == {1e-2 * share, 1e-2 * share / 2}


def test_the_optimizer_is_adamw_with_the_settings_given():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    theirs.load_state_dict(ours.state_dict())
    settings = OptimizerSettings(name="test", lr=1e-2, betas=[0.8, 0.9], eps=1e-3, weight_decay=0.3)
    optimizers = [
        build_optimizer(ours, settings, {}),
        torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.3, fused=False),
    ]
    for _ in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            model(torch.ones(3)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(ours.weight, theirs.weight)
