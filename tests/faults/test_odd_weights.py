"""Weights that no one can compute with: each is refused in a sentence that names the tensor, and nothing is left."""

import math
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from grow.averaging.offline import average_checkpoints
from grow.averaging.settings import AveragingSettings
from grow.common.errors import CheckpointError, GrowError
from grow.growth.run import grow
from grow.growth.settings import GrowthSettings, ScaleSettings
from grow.growth.target import scaled_target
from tests.faults.conftest import CONFIG

NAMED = "model.layers.1.mlp.down_proj.weight"
GROWTHS = {
    "preserving": (GrowthSettings(name="g", share="symmetric"), ScaleSettings()),
    "noisy": (GrowthSettings(name="g", share="symmetric", snr_db=10.0), ScaleSettings()),
    "stacked": (GrowthSettings(name="g", depth="stack"), ScaleSettings(embed=1, heads=1, ffn=1, layers=2)),
    "advanced": (GrowthSettings(name="g", share="symmetric", next_layer=True), ScaleSettings()),
    "unchanged": (GrowthSettings(name="g", share="none"), ScaleSettings(embed=1, heads=1, ffn=1)),
}


def change(source, name, spoil):
    path = source / "model.safetensors"
    tensors = load_file(path)
    spoil(tensors[name])
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("growth", GROWTHS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_every_growth_refuses_values_that_are_not_finite_and_counts_them(source, tmp_path, growth, value):
    change(source, NAMED, lambda tensor: tensor[:2, 1].fill_(value))
    settings, scale = GROWTHS[growth]
    with pytest.raises(CheckpointError, match=rf"2 of 96 values of tensor {NAMED} are not finite"):
        grow(str(source), tmp_path / "out" / "grown", settings, scaled_target(CONFIG, scale))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("growth", ["preserving", "stacked"])
def test_a_growth_whose_loss_is_not_finite_before_and_after_is_refused(source, tmp_path, growth):
    change(source, "model.norm.weight", lambda tensor: tensor.fill_(3e38))
    change(source, "lm_head.weight", lambda tensor: tensor.fill_(3e38))
    settings, scale = GROWTHS[growth]
    with pytest.raises(CheckpointError, match=r"expected a finite loss, found (nan|inf) before"):
        grow(str(source), tmp_path / "out" / "grown", settings, scaled_target(CONFIG, scale))
    assert not list((tmp_path / "out").iterdir())


WEIGHT = torch.arange(12.0).view(3, 4)
STATE_DICTS = {
    "whole numbers as names": ({0: WEIGHT, 1: WEIGHT}, "expected a state dict"),
    "names of two kinds": ({"a": WEIGHT, 7: WEIGHT}, r"found \['7'\]"),
    "a tuple as a name": ({("a", 1): WEIGHT}, "expected a state dict"),
    "a list beside tensors": ({"a": WEIGHT, "b": [WEIGHT]}, "'b'"),
    "a table beside tensors": ({"a": WEIGHT, "b": {"c": WEIGHT}}, "'b'"),
    "a number beside tensors": ({"a": WEIGHT, "epoch": 3}, "'epoch'"),
    "no tensors": ({}, "expected a state dict"),
    "a list": ([WEIGHT], "list"),
    "one tensor": (WEIGHT, "Tensor"),
    "nothing": (None, "NoneType"),
    "sparse": ({"w": WEIGHT.to_sparse()}, "tensor w is sparse_coo"),
    "sparse rows": ({"w": WEIGHT.to_sparse_csr()}, "tensor w is sparse_csr"),
    "meta": ({"w": WEIGHT.to("meta")}, "tensor w has no values"),
    "fp8": ({"w": WEIGHT.to(torch.float8_e4m3fn)}, "tensor w has dtype float8_e4m3fn"),
    "fp8 of the other kind": ({"w": WEIGHT.to(torch.float8_e5m2)}, "tensor w has dtype float8_e5m2"),
    "complex": ({"w": WEIGHT.to(torch.complex64)}, "tensor w has dtype complex64"),
    "unsigned": ({"w": WEIGHT.to(torch.uint16)}, "tensor w has dtype uint16"),
    "an object": ({"w": WEIGHT, "args": pytest}, "tensors alone"),
    "a function": ({"w": print}, "tensors alone"),
}


def average(paths, output):
    return average_checkpoints(list(map(str, paths)), AveragingSettings(name="lawa", kind="lawa", k=2), output)


def refused_average(paths, tmp_path, said):
    with pytest.raises(GrowError, match=said) as refusal:
        average(paths, tmp_path / "out" / "average")
    assert refusal.value.exit_code == 77
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", STATE_DICTS)
def test_state_dicts_of_anything_but_dense_named_tensors_are_refused(tmp_path, kind):
    content, said = STATE_DICTS[kind]
    paths = [tmp_path / f"step_{step}.pt" for step in (1, 2)]
    for path in paths:
        try:
            torch.save(content, path)
        except TypeError:  # a module cannot be pickled; an object of a class can
            torch.save({"w": WEIGHT, "args": zipfile.ZipInfo("x")}, path)
    refused_average(paths, tmp_path, said)


@pytest.mark.filterwarnings("ignore")
def test_a_quantized_state_dict_is_refused(tmp_path):
    paths = [tmp_path / f"step_{step}.pt" for step in (1, 2)]
    for path in paths:
        torch.save({"w": torch.quantize_per_tensor(WEIGHT, 0.1, 0, torch.qint8)}, path)
    refused_average(paths, tmp_path, "tensors alone")


def compress(path):
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


FILES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "compressed": compress,
    "without an end": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "of old torch": lambda path: torch.save({"w": WEIGHT}, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("damage", FILES)
def test_damaged_files_of_torch_save_are_refused(tmp_path, damage):
    paths = [tmp_path / f"step_{step}.pt" for step in (1, 2)]
    for path in paths:
        torch.save({"w": WEIGHT}, path)
    FILES[damage](paths[0])
    refused_average(paths, tmp_path, "tensors alone")


def test_views_transposes_and_parts_of_a_larger_storage_are_averaged_as_what_they_are(tmp_path):
    base = torch.randn(6, 8)
    for step in (1, 2):
        views = {"t": base.T * step, "rows": (base * step)[2:5], "column": (base * step)[:, 3], "none": base[:0]}
        torch.save({**views, "t": (base * step).T}, tmp_path / f"step_{step}.pt")
    average([tmp_path / "step_1.pt", tmp_path / "step_2.pt"], tmp_path / "average")
    mean = load_file(tmp_path / "average" / "model.safetensors")
    expected = {"t": base.T * 1.5, "rows": base[2:5] * 1.5, "column": base[:, 3] * 1.5, "none": base[:0]}
    assert all(torch.equal(mean[name], tensor) for name, tensor in expected.items())
