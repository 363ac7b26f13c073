"""What a step trains and runs: which layers, with gradients where, in which optimizer groups, at what cost."""

import copy
import json
import shutil
from collections import Counter

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from grow.cli.config import compose
from grow.common import metric_names as names
from grow.common.errors import ConfigError, GrowthError
from grow.families.build import model_from_noise, training_flops_per_token
from grow.training.settings import OptimizerSettings, TrainableSettings
from grow.training.step.optimizer import build_optimizer
from grow.training.step.trainable import TrainableSet, part_of_step, parts_of
from tests.growth.cases import CONFIGS

ALL = TrainableSettings(name="all", kind="all")
NEW = TrainableSettings(name="new_layers", kind="new_layers")
BLOCKS = TrainableSettings(name="submodel", kind="submodel", block_layers=2)
FAMILIES = ["opt", "opt-untied", "opt-350m", "pythia", "pythia-tied", "olmo-mha", "olmo2-gqa-tied", "llama-gqa"]
DEEPER = ("model.layers=4", "growth=mslt")


def make(name, layers=4):
    config = copy.deepcopy(CONFIGS[name])
    config.num_hidden_layers = layers
    return model_from_noise(config, seed=0)


def freeze(model, settings, new_layers=(2, 3)):
    return TrainableSet(model, settings, seed=0, sequence_length=16, new_layers=new_layers)


def loss(model):
    tokens = torch.arange(24).view(2, 12) % 32
    hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
    return (hidden @ model.get_output_embeddings().weight.T).log_softmax(-1)[..., 3].mean()


def step_of(block, count=2):
    """A step that draws a block."""
    parts = parts_of(BLOCKS, 2 * count, ())
    return next(step for step in range(99) if part_of_step(parts, 0, step).block == block)


def test_new_layers_are_those_that_the_growth_repeated_and_there_must_be_some():
    (part,) = parts_of(NEW, 6, {4, 5})
    assert (part.depth, set(part.trained)) == (6, {4, 5})
    with pytest.raises(GrowthError, match="a growth that adds layers"):
        parts_of(NEW, 6, set())


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(6, [(2, [0, 1]), (4, [2, 3]), (6, [4, 5])]), (5, [(2, [0, 1]), (4, [2, 3]), (5, [4])])],
)
def test_sub_models_are_the_bottom_blocks_and_each_trains_its_top_one(layers, expected):
    assert [(part.depth, list(part.trained)) for part in parts_of(BLOCKS, layers, ())] == expected


def test_a_steps_part_follows_from_seed_and_step_and_every_part_is_drawn_as_often():
    parts = parts_of(BLOCKS, 8, ())
    drawn = [part_of_step(parts, 1, step).block for step in range(2000)]
    assert drawn == [part_of_step(parts, 1, step).block for step in range(2000)]
    assert drawn != [part_of_step(parts, 2, step).block for step in range(2000)]
    assert Counter(drawn).keys() == {1, 2, 3, 4}
    assert min(Counter(drawn).values()) > 400


@pytest.mark.parametrize("name", FAMILIES)
def test_below_the_new_layers_there_is_no_graph_and_nothing_there_gets_a_gradient(name):
    model = make(name)
    freeze(model, NEW)
    layers, seen = model.get_decoder().layers, {}
    for number, layer in enumerate(layers):
        layer.register_forward_hook(lambda _, inputs, output, number=number: seen.update({number: output}))
    loss(model).backward()
    outputs = {number: output[0] if isinstance(output, tuple) else output for number, output in seen.items()}
    assert {number: output.grad_fn is not None for number, output in outputs.items()} == dict(enumerate((0, 0, 1, 1)))
    trained = {each for each, parameter in model.named_parameters() if parameter.grad is not None}
    in_layers = {each for each in trained if ".layers." in each}
    assert in_layers == {each for each, _ in model.named_parameters() if ".layers.2." in each or ".layers.3." in each}
    tied = model.config.tie_word_embeddings
    assert model.get_input_embeddings().weight.grad is None
    assert (model.get_output_embeddings().weight.grad is None) == tied
    assert ("model.decoder.project_out.weight" in trained) == (name == "opt-350m")
    assert trained - in_layers or (tied and name.startswith("olmo-"))  # the final norm, where it has weights


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("block", [1, 2])
def test_a_sub_model_is_the_stock_model_of_so_many_layers_and_its_top_is_trained(name, block):
    model, shallow = make(name).eval(), make(name, layers=2 * block).eval()
    shallow.load_state_dict({each: value for each, value in model.state_dict().items() if each in shallow.state_dict()})
    trainable = freeze(model, BLOCKS)
    whole = loss(model).item()
    with trainable.applied_at(step_of(block)):
        found = loss(model)
    torch.testing.assert_close(found, loss(shallow), rtol=0, atol=0)
    assert (found.item() == whole) == (block == 2)
    assert loss(model).item() == whole  # the model is whole again
    found.backward()
    in_layers = {each for each, value in model.named_parameters() if value.grad is not None and ".layers." in each}
    assert {int(each.split(".layers.")[1].split(".")[0]) for each in in_layers} == {2 * block - 2, 2 * block - 1}
    assert model.get_output_embeddings().weight.grad is not None


def test_a_tied_table_learns_as_the_head_only_in_sub_models():
    tied, untied = make("llama-gqa-tied"), make("llama-gqa")
    untied.load_state_dict({**tied.state_dict()})
    for model in (tied, untied):
        with freeze(model, BLOCKS).applied_at(step_of(1)):
            loss(model).backward()
    torch.testing.assert_close(tied.lm_head.weight.grad, untied.lm_head.weight.grad, rtol=0, atol=0)
    assert untied.model.embed_tokens.weight.grad is None


@pytest.mark.parametrize("name", ["llama-gqa", "opt", "opt-350m"])
def test_a_step_costs_the_passes_that_its_layers_take_part_in(name):
    model = make(name, layers=6)
    whole = training_flops_per_token(model, 16)
    head = 6 * model.get_output_embeddings().weight.numel()
    narrow = 6 * 16 * 32 if name == "opt-350m" else 0  # each of its projections, in and out
    layer = (whole - head - 2 * narrow) // 6
    assert freeze(make(name, layers=6), ALL).flops_per_token(0) == whole
    tied = model.config.tie_word_embeddings
    outside = (head * 2 // 3 if tied else head) + narrow + narrow // 3
    assert freeze(make(name, layers=6), NEW, (4, 5)).flops_per_token(0) == outside + layer * (4 + 3 * 2) // 3
    # between new layers, a frozen one passes gradients on
    assert freeze(make(name, layers=6), NEW, (3, 5)).flops_per_token(0) == outside + layer * (3 + 2 + 3 * 2) // 3
    blocks = freeze(make(name, layers=6), BLOCKS)
    costs = {layer * (2 * number - 2 + 3 * 2) // 3 for number in (1, 2, 3)}
    assert {blocks.flops_per_token(step) - head - narrow - narrow // 3 for step in range(30)} == costs


def test_frozen_weights_are_in_no_optimizer_group_and_each_block_is_in_its_own():
    model = make("llama-gqa")
    names_of = {id(parameter): name for name, parameter in model.named_parameters()}
    trainable = freeze(model, BLOCKS)
    optimizer = build_optimizer(model, OptimizerSettings(name="test", lr=1e-2), {}, trainable.blocks(model))
    blocks = {names_of[id(each)]: group["block"] for group in optimizer.param_groups for each in group["params"]}
    assert "model.embed_tokens.weight" not in blocks
    assert blocks["lm_head.weight"] == blocks["model.norm.weight"] == 0
    assert [blocks[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in range(4)] == [1, 1, 2, 2]


def test_zeros_instead_of_gradients_neither_move_nor_decay_what_a_step_leaves_out():
    model = make("llama-gqa")
    trainable = freeze(model, BLOCKS)
    optimizer = build_optimizer(model, OptimizerSettings(name="test", lr=1e-2), {}, trainable.blocks(model))
    trainable.attach_to(optimizer)
    with trainable.applied_at(step_of(1)):
        loss(model).backward()
    above = model.model.layers[3].mlp.up_proj.weight
    before, below = above.detach().clone(), model.model.layers[0].mlp.up_proj.weight.detach().clone()
    above.grad = torch.zeros_like(above)  # as ZeRO fills its flat buffer
    optimizer.step()
    assert torch.equal(above, before) and not optimizer.state.get(above)
    assert not torch.equal(model.model.layers[0].mlp.up_proj.weight, below)


@pytest.fixture(scope="module")
def source(trained_once):
    return trained_once()


@pytest.fixture
def grown(train, tmp_path, source):
    """(*more) -> a run of twice the source's layers."""
    return lambda *more: train(tmp_path / "run", *DEEPER, f"growth.source={source}", *more)


def test_what_a_run_does_not_train_ends_as_it_began_to_the_bit_and_has_no_moments(grown, source):
    run = grown("trainable=new_layers")
    before, after = (load_file(place / "model" / "model.safetensors") for place in (source, run))
    kept = {name for name in after if name in before and torch.equal(before[name], after[name])}
    assert kept == {name for name in before if name not in ("lm_head.weight", "model.norm.weight")}
    assert not torch.equal(after["model.layers.2.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"])
    with safe_open(next(run.glob("checkpoints/step-00000010/optimizer-*.safetensors")), "pt") as file:
        moments = {key.rpartition("/")[0] for key in file.keys()}  # noqa: SIM118 (it is no mapping)
    assert moments == after.keys() - kept
    assert AutoModelForCausalLM.from_pretrained(run / "model").config.num_hidden_layers == 4


@pytest.mark.parametrize("kind", ["new_layers", "submodel"])
def test_a_run_that_trains_a_part_continues_to_the_same_bits_and_the_same_cost(grown, rows, kind):
    arguments = (f"trainable={kind}", "trainable.block_layers=1", "averaging=ema")
    run = grown(*arguments)
    quiet = [load_file(run / place / "model.safetensors") for place in ("model", "average")]
    last = rows(run)[-1]
    assert last["flops"] < 1280 * json.loads((run / "run.json").read_text())["model"]["flops_per_token"]
    for done in ("model", "average", "checkpoints/step-00000010", "checkpoints/step-00000009"):
        shutil.rmtree(run / done)
    grown(*arguments)
    again = [load_file(run / place / "model.safetensors") for place in ("model", "average")]
    for weights, found in zip(quiet, again, strict=True):
        assert all(torch.equal(weights[name], found[name]) for name in weights)
    assert {**rows(run)[-1], "seconds": 0} == {**last, "seconds": 0}
    assert last[names.VAL_LOSS] < rows(run)[0][names.VAL_LOSS]


def test_a_growth_without_new_layers_has_none_to_train(train, tmp_path, source):
    with pytest.raises(GrowthError, match="trainable=new_layers"):
        train(tmp_path / "run", "growth=identity", f"growth.source={source}", "trainable=new_layers")


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["trainable=new_layers"], "growth=none"),
        (["trainable=submodel", "trainable.block_layers=4"], "fewer than the 4 layers"),
        (["trainable=new_layer"], "Did you mean new_layers"),
        (["trainable.kind=top"], "all, new_layers, submodel"),
    ],
)
def test_a_trainable_set_that_cannot_be_is_refused_before_anything_starts(overrides, match):
    with pytest.raises(ConfigError, match=match):
        compose(overrides)


@pytest.mark.parametrize("more", ["strategy=zero3", "strategy=fsdp2", "strategy=zero2 trainer.precision=bf16_weights"])
def test_strategies_that_keep_no_exact_frozen_weights_are_refused(train, tmp_path, more):
    with pytest.raises(ConfigError, match="trainable=submodel"):
        train(tmp_path / "run", "trainable=submodel", "trainable.block_layers=1", *more.split())
