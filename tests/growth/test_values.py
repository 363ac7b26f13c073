"""What grown weights look like: block sums, noise power, symmetry; and how they train."""

import copy
from collections import defaultdict

import pytest
import torch
from torch import nn

from grow.growth import maps
from grow.growth.settings import ScaleSettings
from grow.growth.values import cancelling_noise, noise_scale, random_generator
from tests.growth.cases import CONFIGS, PRESETS, grown_model, grown_tensors, make_source, preset, some_tokens

MAPS = {
    "tile": maps.tile(6, 3),
    "grouped": maps.product(maps.tile(2, 2), maps.tile(3, 2)),
    "query of a tiled head": maps.query_of_tiled_head(6, 3),
    "query under rotary": maps.query_under_rotary(8, 3),
    "key under rotary": maps.key_under_rotary(8, 2),
    "fused": maps.concatenate([maps.query_under_rotary(4, 2), maps.key_under_rotary(4, 2), maps.tile(4, 2)]),
    "product": maps.product(maps.tile(3, 2), maps.query_of_tiled_head(4, 3)),
}


@pytest.mark.parametrize("name", MAPS)
def test_reading_undoes_expanding(name):
    axis_map = MAPS[name]
    source, target = axis_map.source_length, len(axis_map.index)
    expand, read = torch.zeros(target, source).double(), torch.zeros(source, target).double()
    expand[torch.arange(target), axis_map.index] = axis_map.expand
    read[axis_map.index, torch.arange(target)] = axis_map.read
    assert torch.allclose(read @ expand, torch.eye(source).double(), atol=1e-15)


@pytest.mark.parametrize("name", MAPS)
def test_every_source_element_has_the_same_number_of_numbered_copies(name):
    axis_map = MAPS[name]
    pairs = set(zip(axis_map.index.tolist(), axis_map.copy_number.tolist(), strict=True))
    assert pairs == {(i, c) for i in range(axis_map.source_length) for c in range(axis_map.copies)}


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
@pytest.mark.parametrize("growth", PRESETS)
def test_column_blocks_of_every_output_copy_sum_to_the_source(sources, growth, factor):
    source = sources("llama-mha")
    grown = grown_tensors(source, PRESETS[growth], ScaleSettings(embed=factor, heads=factor, ffn=factor))
    weight = source.model.model.layers[1].mlp.up_proj.weight
    blocks = grown["model.layers.1.mlp.up_proj.weight"].view(factor, *weight.shape[:1], factor, weight.shape[1])
    assert torch.allclose(blocks.sum(2), weight.expand(factor, -1, -1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0])
@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("share", ["symmetric", "diagonal"])
def test_noise_has_the_requested_power_against_the_divided_block(sources, share, factor, snr_db):
    source = sources("pythia")
    scale = ScaleSettings(embed=factor, heads=factor)
    quiet = grown_tensors(source, preset(share), scale)
    noisy = grown_tensors(source, preset(share, snr_db), scale)
    divided = grown_tensors(source, preset("symmetric"), scale)
    for name in ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"):
        key = f"gpt_neox.layers.0.{name}.weight"
        signal, noise = divided[key].square().mean(), (noisy[key] - quiet[key]).square().mean()
        assert 10 * torch.log10(signal / noise) == pytest.approx(snr_db, abs=0.1)


def test_each_part_of_a_fused_projection_gets_noise_by_its_own_power():
    weight = torch.cat([torch.full((4, 6), 1.0), torch.full((4, 6), 100.0)])
    rows = maps.concatenate([maps.tile(4, 2), maps.tile(4, 2)])
    scale = noise_scale(weight, rows, maps.tile(6, 2), snr_db=20.0)
    assert scale[:8].tolist() == pytest.approx([0.05] * 8)
    assert scale[8:].tolist() == pytest.approx([5.0] * 8)


@pytest.mark.parametrize("copies", [2, 3, 5])
def test_all_copies_get_noise_alike_for_odd_factors_too(copies):
    columns = maps.tile(4000, copies)
    noise = cancelling_noise(torch.ones(2), columns, random_generator(0, "w", 0))
    power = noise.view(2, copies, -1).square().mean(dim=(0, 2))
    assert power.tolist() == pytest.approx([1.0] * copies, rel=0.1)
    assert noise.view(2, copies, -1).sum(1).abs().max() < 1e-5


def test_tables_vectors_and_the_head_get_no_noise(sources):
    source = sources("opt-untied")
    quiet = grown_tensors(source, preset(), ScaleSettings())
    noisy = grown_tensors(source, preset(snr_db=10.0), ScaleSettings())
    equal = {name for name in quiet if torch.equal(quiet[name], noisy[name])}
    assert equal == {name for name in quiet if quiet[name].dim() == 1 or "embed" in name or name == "lm_head.weight"}


def test_noise_depends_on_the_seed_and_the_tensor_alone(sources):
    source = sources("llama-mha")
    name = "model.layers.{}.mlp.up_proj.weight"
    first, again = (grown_tensors(source, preset(snr_db=10.0), ScaleSettings()) for _ in range(2))
    other = grown_tensors(source, preset(snr_db=10.0, seed=1), ScaleSettings())
    assert torch.equal(first[name.format(0)], again[name.format(0)])
    assert not torch.equal(first[name.format(0)], other[name.format(0)])
    draws = [cancelling_noise(torch.ones(1), maps.tile(4, 2), random_generator(0, n, 0)) for n in "ab"]
    assert not torch.equal(*draws)


def _symmetry(weight, n):
    """Mean cosine between the blocks that copy one source block (figure 5 of the paper)."""
    blocks = [block.flatten() for rows in weight.chunk(n) for block in rows.chunk(n, dim=1)]
    pairs = [(a, b) for i, a in enumerate(blocks) for b in blocks[i + 1 :]]
    return torch.stack([torch.cosine_similarity(a, b, dim=0) for a, b in pairs]).mean()


def test_symmetry_at_step_0_is_1_or_about_082_or_0_off_the_diagonal(tmp_path):
    wide = type(CONFIGS["llama-mha"]).from_dict({**CONFIGS["llama-mha"].to_dict(), "intermediate_size": 512})
    source = make_source(wide, tmp_path / "wide")
    key = "model.layers.0.mlp.up_proj.weight"
    cloned = {name: grown_tensors(source, growth, ScaleSettings())[key] for name, growth in PRESETS.items()}
    assert _symmetry(cloned["hyperclone"], 2) == pytest.approx(1.0, abs=1e-12)
    # the two blocks of a row carry opposite noise: (1 - r) / (1 + r) with r = 0.1
    noisy = cloned["hyperclone_noisy"]
    rows = [torch.cosine_similarity(*(b.flatten() for b in half.chunk(2, dim=1)), dim=0) for half in noisy.chunk(2)]
    assert torch.stack(rows).mean() == pytest.approx(0.9 / 1.1, abs=0.02)
    diagonal = cloned["hyperclone_diagonal"]
    weight = source.model.state_dict()[key]
    assert torch.equal(diagonal, torch.block_diag(weight, weight))


def test_half_the_singular_values_of_a_symmetric_clone_are_zero(sources):
    weight = grown_tensors(sources("llama-mha"), preset(), ScaleSettings())["model.layers.0.self_attn.o_proj.weight"]
    assert int(torch.linalg.matrix_rank(weight)) == weight.shape[0] // 2
    noisy = grown_tensors(sources("llama-mha"), PRESETS["hyperclone_noisy"], ScaleSettings())
    assert int(torch.linalg.matrix_rank(noisy["model.layers.0.self_attn.o_proj.weight"])) == weight.shape[0]


# Training dynamics (reference 4.9)


def _loss(model, tokens):
    logits = model(tokens[:, :-1]).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@pytest.mark.parametrize("factor", [2, 3])
def test_gradient_norms_scale_as_1_and_root_n(sources, factor):
    source = sources("pythia")
    grown = grown_model(source, preset(), ScaleSettings(embed=factor, heads=factor, ffn=factor))
    models = (copy.deepcopy(source.model), grown)
    for model in models:
        _loss(model, some_tokens()).backward()
    before, after = ({name: p.grad.norm() for name, p in model.named_parameters()} for model in models)
    for name in before:  # the stock softmax is float32, hence 1e-6
        inside = name.endswith("weight") and ("query_key_value" in name or "dense" in name)
        expected = 1.0 if inside else factor**0.5 if name == "lm_head.weight" else factor**-0.5
        assert after[name] / before[name] == pytest.approx(expected, rel=1e-6), name


def _train(model, *, lr_factor, decay_factor, steps=8):
    groups = defaultdict(list)
    for name, parameter in model.named_parameters():
        linear = parameter.dim() == 2 and "embed" not in name
        groups[linear].append(parameter)
    lr, decay = 1e-3, 0.1
    optimizer = torch.optim.AdamW(
        [
            {"params": groups[True], "lr": lr * lr_factor, "weight_decay": decay * decay_factor},
            {"params": groups[False], "lr": lr, "weight_decay": 0.0},
        ],
        eps=1e-30,
    )
    losses = []
    for step in range(steps):
        tokens = torch.randint(32, (2, 12), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = _loss(model, tokens)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("share", ["symmetric", "diagonal"])
def test_a_noise_free_clone_trains_like_its_source_at_n_times_the_rate_and_1_nth_of_the_decay(sources, share):
    source = sources("pythia")
    clone = grown_model(source, preset(share), ScaleSettings(embed=2, heads=2, ffn=2))
    cloned = _train(clone, lr_factor=1, decay_factor=1)
    equivalent = _train(copy.deepcopy(source.model), lr_factor=2, decay_factor=1 / 2)
    plain = _train(copy.deepcopy(source.model), lr_factor=1, decay_factor=1)
    assert cloned == pytest.approx(equivalent, rel=1e-9)
    assert max(abs(a - b) for a, b in zip(cloned, plain, strict=True)) > 1e-3


def test_noise_lets_copies_drift_apart_while_a_symmetric_clone_stays_symmetric(sources):
    source = sources("pythia")
    key = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    for growth, stays in ((preset(), True), (preset(snr_db=20.0), False)):
        clone = grown_model(source, growth, ScaleSettings())
        before = clone.state_dict()[key].clone()
        _train(clone, lr_factor=1, decay_factor=0)
        likeness = _symmetry(clone.state_dict()[key] - before, 2)  # of what the copies learned
        assert likeness > 1 - 1e-9 if stays else likeness < 0.99
