"""Earlier weights of a source grow as its own did: the mean of grown snapshots is the grown mean, noise or not."""

import pytest
import torch

from grow.cli.config import compose
from grow.common.errors import ConfigError
from grow.families.weights import WeightReader
from grow.growth.made_tensors import GrowthPlan, RouterTensor
from grow.growth.settings import ScaleSettings
from grow.growth.snapshots import grow_snapshots
from tests.growth.cases import Source, make_source, model_of, plan, relative_difference, tensors_of

EXACT = 1e-12  # of weights around 1
TWICE, WIDER = ScaleSettings(), ScaleSettings(embed=1.5, heads=1.5, ffn=1.5)
BOTH, DEEPER = ScaleSettings(layers=2), ScaleSettings(embed=1, heads=1, ffn=1, layers=2)
CASES = [
    *(("hyperclone_noisy", name, TWICE) for name in ("llama-gqa-tied", "opt-350m", "olmo2-mha")),
    *((name, "llama-gqa", TWICE) for name in ("hyperclone_diagonal_noisy", "net2net", "bert2bert_aki", "sparkling")),
    *(("lemon", "llama-gqa", WIDER), ("zero_pad", "pythia", WIDER), ("aki_pro", "pythia", BOTH)),
    *(("g_stack", "pythia", DEEPER), ("llama_pro", "llama-gqa", DEEPER)),
]


def weights_of(source: Source) -> dict[str, torch.Tensor]:
    reader = WeightReader(source.directory)
    return {name: reader.read(name) for name in reader.names}


def snapshots_of(source, count=3):
    """Other weights of its shapes, far from it and from each other."""
    return [{name: torch.randn_like(tensor) for name, tensor in weights_of(source).items()} for _ in range(count)]


def mean(snapshots):
    return {name: torch.stack([each[name] for each in snapshots]).mean(0) for name in snapshots[0]}


def grow_all(source, growth, scale, snapshots):
    """The plan, the grown source, and the grown snapshots."""
    made, target = plan(source, growth, scale)
    grown = tensors_of(made, source, growth)
    reads = [snapshot.__getitem__ for snapshot in snapshots]
    mapped = dict(grow_snapshots(made, reads, weights_of(source).__getitem__, grown.__getitem__, growth.seed))
    return target, grown, [{name: tensors[i] for name, tensors in mapped.items()} for i in range(len(snapshots))]


def settings(preset):
    return compose([f"growth={preset}", "growth.source=somewhere"]).growth


def furthest(one, other):
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(("preset", "name", "scale"), CASES)
def test_the_mean_of_a_mapped_window_is_the_grown_mean(sources, preset, name, scale):
    source = sources(name)
    snapshots = snapshots_of(source)
    _, grown, (*mapped, of_mean, again) = grow_all(
        source, settings(preset), scale, [*snapshots, mean(snapshots), weights_of(source)]
    )
    assert furthest(mean(mapped), of_mean) < EXACT
    assert furthest(again, grown) < EXACT
    assert furthest(mapped[0], grown) > 0.1


def test_without_noise_the_source_itself_maps_to_the_bits_that_it_grew_to(sources):
    source = sources("llama-gqa")
    _, grown, (again,) = grow_all(source, settings("lemon"), WIDER, [weights_of(source)])
    assert furthest(again, grown) == 0


@pytest.mark.parametrize("preset", ["hyperclone_noisy", "lemon"])
def test_a_mapped_snapshot_computes_what_the_snapshot_did(sources, tmp_path, preset):
    source = sources("llama-gqa")
    earlier = make_source(source.config, tmp_path, seed=1)
    target, _, (mapped,) = grow_all(source, settings(preset), TWICE, [weights_of(earlier)])
    assert relative_difference(earlier.model, model_of(target, mapped, torch.float64)) < 1e-10


def test_snapshots_with_noise_of_their_own_size_would_have_another_mean(sources, tmp_path):
    """What is not done, and why: the noise of a growth is scaled to the weights it is added to."""
    source, growth = sources("llama-gqa"), settings("hyperclone_noisy")
    others = [make_source(source.config, tmp_path / str(seed), seed) for seed in (1, 2)]
    made, _ = plan(source, growth, TWICE)
    each = [tensors_of(made, other, growth) for other in others]
    _, _, (of_mean,) = grow_all(source, growth, TWICE, [mean([weights_of(other) for other in others])])
    assert furthest(mean(each), of_mean) > 1e-3


def test_what_no_map_takes_is_refused_by_name(sources):
    made, _ = plan(sources("llama-gqa"), settings("hyperclone"), TWICE)
    router = RouterTensor(target=made.tensors[0].target, std=0.02, repeats=1)
    with pytest.raises(ConfigError, match=rf"on_growth=map: {router.target.name} is joined .*on_growth=reset"):
        list(grow_snapshots(GrowthPlan(tensors=[router], factors={}, layers=[0]), [], None, None, 0))
