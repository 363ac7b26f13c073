"""Families of one layout: every preserving preset, every dimension, stock checkpoints in bfloat16 and in shards."""

import itertools
from dataclasses import replace

import pytest
import torch

from grow.common.errors import CheckpointError, GrowthError
from grow.families import registry
from grow.families.table import parse_table
from grow.growth.run import grow
from grow.growth.settings import GrowthSettings, ScaleSettings
from grow.growth.target import scaled_target
from tests.growth.cases import ONE_LAYOUT, PRESETS, grown_model, make_source, plan, relative_difference, some_tokens
from tests.growth.test_gallery import EXACT as PRESERVING
from tests.growth.test_gallery import _settings

EXACT = 1e-10
HEAD_DIM = ScaleSettings(embed=2, heads=1, head_dim=2, ffn=1)
IDENTITY = GrowthSettings(name="test", depth="interpose", new_layers="identity")
DEEPER = ScaleSettings(embed=1, heads=1, ffn=1, layers=2)
NEEDS_RMS_NORM = ("isometric", "zero_pad")


def diagonal(rows, columns):
    """Every pair of a row and a column; all but one of each row are slow."""
    for number, row in enumerate(rows):
        for place, column in enumerate(columns):
            chosen = place == number % len(columns)
            yield pytest.param(row, column, marks=() if chosen else pytest.mark.slow)


@pytest.mark.parametrize(("name", "preserving"), diagonal(ONE_LAYOUT, PRESERVING))
def test_every_preserving_preset_preserves_every_family(sources, name, preserving):
    (growth, scale), source = preserving, sources(name)
    made, _ = plan(source, _settings(growth), scale)
    if source.config.model_type == "gpt2" and growth in NEEDS_RMS_NORM and made.reasons:
        assert "LayerNorm" in made.reasons[0]
        return
    assert made.preserves
    assert relative_difference(source.model, grown_model(source, _settings(growth), scale)) < EXACT


@pytest.mark.parametrize(("name", "growth"), zip(ONE_LAYOUT, itertools.cycle(PRESETS), strict=False))
def test_head_dim_grows_alone_and_with_all_else(sources, name, growth):
    source = sources(name)
    for scale in (HEAD_DIM, ScaleSettings(embed=6, heads=3, head_dim=2, ffn=2, layers=1)):
        assert relative_difference(source.model, grown_model(source, PRESETS[growth], scale)) < EXACT


@pytest.mark.parametrize("name", [*ONE_LAYOUT])
def test_layers_added_as_identities_keep_the_kind_of_attention_of_the_layer_they_start_from(sources, name):
    source = sources(name)
    for depth in ("stack", "interpose"):
        growth = replace(IDENTITY, depth=depth)
        made, target = plan(source, growth, DEEPER)
        for listed in ("layer_types", "no_rope_layers"):
            kinds = getattr(source.config, listed, None)
            assert kinds is None or getattr(target, listed) == [kinds[layer] for layer in made.layers]
        assert made.preserves
        assert relative_difference(source.model, grown_model(source, growth, DEEPER)) < EXACT


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ("gpt2", "gemma3") else pytest.mark.slow) for name in ONE_LAYOUT]
)
def test_a_stock_checkpoint_in_bfloat16_and_in_shards_grows(tmp_path, name):
    source = make_source(ONE_LAYOUT[name], tmp_path / "source", dtype=torch.bfloat16)
    source.model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    growth, target = PRESETS["hyperclone_noisy"], scaled_target(source.config, ScaleSettings())
    record = grow(str(tmp_path / "shards"), tmp_path / "grown", growth, target, some_tokens())
    assert record.plan.preserves and record.verification.tolerance == 5e-2


# Each word of the table language, and each rule of a family: what breaks without it.


def without(monkeypatch, model_type, spelled=None, **fields):
    """Change a family: fields of its own, or how its table spells something, (old, new)."""
    family = registry.FAMILIES[model_type]
    table = tuple(spelled(line) for line in family.table) if spelled else family.table
    monkeypatch.setitem(registry.FAMILIES, model_type, replace(family, table=table, **fields))


def broken(source, scale=None):
    return (
        relative_difference(source.model, grown_model(source, PRESETS["hyperclone"], scale or ScaleSettings())) > 1e-3
    )


def test_without_transposition_a_square_matrix_of_gpt2_is_read_along_the_wrong_side(sources, monkeypatch):
    source = sources("gpt2")
    without(monkeypatch, "gpt2", lambda line: replace(line, transposed=line.transposed and "c_proj" not in str(line)))
    with pytest.raises(CheckpointError, match="has shape"):
        broken(source)


@pytest.mark.parametrize("name", ["gpt2", "phi3"])
def test_without_concatenated_products_queries_keys_and_values_of_all_heads_are_mixed(sources, monkeypatch, name):
    fused = parse_table("x  heads*(query|key|value) <- normed")[0].writes
    source = sources(name)

    def by_head(line):
        return replace(line, writes=fused) if "c_attn" in str(line.pattern) or "qkv" in str(line.pattern) else line

    without(monkeypatch, name, by_head)
    scale = ScaleSettings(embed=2, heads=1, head_dim=2, ffn=1)
    try:
        assert broken(source, scale)
    except CheckpointError as error:  # groups make the lengths differ
        assert "has shape" in str(error)


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_without_the_offset_a_gain_is_scaled_less_one(sources, monkeypatch, name):
    source = sources(name)
    without(monkeypatch, source.config.model_type, lambda line: replace(line, offset=0.0))
    assert broken(source)


def test_without_the_root_of_the_width_embeddings_are_too_large(sources, monkeypatch):
    source, plain = sources("gemma2"), parse_table("x  vocab, embed")[0].writes
    without(monkeypatch, "gemma2", lambda line: replace(line, writes=plain) if "embed_tokens" in str(line) else line)
    assert broken(source)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "gpt2-unscaled"])
def test_without_the_familys_own_scale_scores_are_too_large(sources, monkeypatch, name):
    source = sources(name)
    without(monkeypatch, source.config.model_type, score_scale=None)
    assert broken(source, HEAD_DIM)


def test_a_target_whose_layers_attend_otherwise_than_the_source_is_refused_by_number(sources):
    from grow.families.weights import WeightReader
    from grow.growth.one_source import plan_one_source

    source = sources("gemma3")
    target = scaled_target(source.config, DEEPER)  # its layers repeat the source's, as stacked ones do
    with pytest.raises(GrowthError, match="layers 1, 2 of the target attend otherwise"):
        plan_one_source(WeightReader(source.directory), source.config, target, IDENTITY)
