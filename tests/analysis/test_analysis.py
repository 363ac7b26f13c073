"""Symmetry is 1 on clones and falls as they diverge; cloning adds no rank; dips and their ends are found."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grow.analysis.expert_overlap import expert_overlap, group_experts
from grow.analysis.forgetting import forgetting
from grow.analysis.rank import effective_rank, numerical_rank, singular_values
from grow.analysis.symmetry import symmetry
from grow.analysis.weight_analysis import analyze_weights
from grow.cli.config import compose
from grow.common.records import read_json
from grow.growth.run import grow
from grow.growth.settings import ScaleSettings
from grow.growth.target import scaled_target
from tests.growth.cases import CONFIGS, make_source

HALVES = torch.arange(8).view(2, 4)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_halves_that_are_equal_have_symmetry_one_and_unrelated_ones_none():
    half = noise(64, 4)
    assert symmetry(torch.cat([half, half], 1), HALVES) == pytest.approx(1)
    assert symmetry(torch.cat([half, -half], 1), HALVES) == pytest.approx(-1)
    assert abs(symmetry(noise(4096, 8), HALVES)) < 0.05


def test_symmetry_is_the_mean_of_row_cosines_not_of_the_whole():
    weight = torch.tensor([[1.0, 0.0, 1.0, 0.0], [100.0, 0.0, 0.0, 100.0]])
    assert symmetry(weight, torch.tensor([[0, 1], [2, 3]])) == pytest.approx(0.5)


def test_more_than_two_copies_take_the_mean_over_pairs():
    block = noise(16, 3)
    weight = torch.cat([block, block, -block], 1)
    assert symmetry(weight, torch.arange(9).view(3, 3)) == pytest.approx(-1 / 3)


def test_cloning_leaves_the_rank_where_it_was():
    weight = noise(12, 12)
    clone = torch.cat([torch.cat([weight, weight], 1)] * 2) / 2
    values = singular_values(clone)
    assert len(values) == 24
    assert numerical_rank(values, 24) == 12
    assert effective_rank(values) == pytest.approx(effective_rank(singular_values(weight)), rel=1e-4)


def test_effective_rank_is_all_for_equal_values_and_one_for_a_single_direction():
    assert effective_rank(torch.ones(7)) == pytest.approx(7)
    assert effective_rank(torch.tensor([3.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_rank(torch.zeros(3)) == 0


def test_a_dip_is_measured_against_the_source_and_its_end_interpolated():
    dip = forgetting([0, 10, 20, 30], [40.0, 30.0, 38.0, 42.0], 40.0, higher_is_better=True)
    assert (dip.drop, dip.worst_at_tokens, dip.recovered_at_tokens) == (10.0, 10, 25.0)
    loss = forgetting([0, 10, 20], [3.0, 3.5, 3.2], 3.0, higher_is_better=False)
    assert loss.drop == pytest.approx(0.5)
    assert loss.recovered_at_tokens is None


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8), st.floats(0, 100))
def test_the_sign_of_the_score_does_not_change_the_dip(scores, own):
    tokens = list(range(len(scores)))
    up = forgetting(tokens, scores, own, higher_is_better=True)
    down = forgetting(tokens, [-score for score in scores], -own, higher_is_better=False)
    assert (up.drop, up.worst_at_tokens, up.recovered_at_tokens) == (
        *(down.drop, down.worst_at_tokens, down.recovered_at_tokens),
    )


def test_experts_that_are_copies_overlap_fully_and_orthogonal_ones_not():
    assert expert_overlap(noise(1, 4, 5).repeat(3, 1, 1)) == pytest.approx(1)
    assert expert_overlap(torch.eye(4)) == pytest.approx(0)
    names = [f"model.layers.0.mlp.experts.{number}.up_proj.weight" for number in (10, 9, 0)]
    grouped = group_experts([*names, "model.layers.0.mlp.gate.weight"])
    assert list(grouped) == ["model.layers.0.mlp.experts.up_proj.weight"]
    assert [name.split(".")[5] for name in grouped["model.layers.0.mlp.experts.up_proj.weight"]] == ["0", "9", "10"]


@pytest.mark.parametrize("layout", ["opt", "opt-350m", "pythia-tied", "olmo2-gqa", "llama-gqa-tied", "llama-mqa"])
def test_every_cloned_matrix_of_every_layout_is_symmetric_after_symmetric_growth(layout, tmp_path):
    source = make_source(CONFIGS[layout], tmp_path / "source")
    settings = compose(["growth=hyperclone", "growth.source=x"]).growth
    scale = ScaleSettings(embed=2, heads=2, head_dim=1, ffn=3)
    grow(str(source.directory), tmp_path / "grown", settings, scaled_target(source.config, scale))
    growth = read_json(tmp_path / "grown" / "growth.json")
    found = analyze_weights(tmp_path / "grown", growth)
    repeated = {name for name, tensor in growth["tensors"].items() if tensor["input_copies"] > 1}
    assert len(repeated & found.symmetry.keys()) == len(repeated) > 0
    for name, value in found.symmetry.items():
        assert value == pytest.approx(1, abs=1e-5), name
    for name, rank in found.numerical_rank.items():
        tensor = growth["tensors"][name]
        rows, columns = tensor["shape"]
        assert rank <= min(rows // tensor["output_copies"], columns // tensor["input_copies"]), name
