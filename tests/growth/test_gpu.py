"""A model grown on a CPU computes its source's function on a CUDA device, in float32, TF32 and bfloat16.

`GROW_TEST_DEVICE=cpu python -m pytest -m gpu` runs the same tests without a GPU.
"""

import os

import pytest
import torch

from grow.families.build import load_model
from grow.growth.run import grow
from grow.growth.settings import ScaleSettings
from grow.growth.target import scaled_target
from grow.growth.verify import TOLERANCES, compare
from tests.growth.cases import CONFIGS, PRESETS, make_source, some_tokens

pytestmark = pytest.mark.gpu
DEVICE = os.environ.get("GROW_TEST_DEVICE", "cuda")
TOLERANCE = {
    "fp32": TOLERANCES[torch.float32],
    "tf32": TOLERANCES[torch.float16],  # the same ten bits of mantissa
    "bf16": TOLERANCES[torch.bfloat16],
}


@pytest.fixture(autouse=True)
def device():
    """The device to test; nothing touches CUDA before this."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def exact_norms():
    """Not here: the norms are the stock ones, as they run on a GPU."""


@pytest.fixture(params=TOLERANCE)
def precision(request):
    """Name of the products' precision, in force."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if request.param == "tf32" else "highest")
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.fixture(params=["opt", "pythia", "olmo-gqa", "olmo2-mha", "llama-gqa-tied"])
def pair(request, tmp_path):
    """Directories of a float32 source and of the model grown from it, on the CPU."""
    config = CONFIGS[request.param]
    make_source(config, tmp_path / "source", dtype=torch.float32)
    target = scaled_target(config, ScaleSettings())
    grow(str(tmp_path / "source"), tmp_path / "grown", PRESETS["hyperclone_noisy"], target)
    return tmp_path / "source", tmp_path / "grown"


def logits(directory, tokens, device, dtype=torch.float32):
    model = load_model(directory, dtype).to(device).eval()
    with torch.no_grad():
        return model(tokens.to(device)).logits.float().cpu()


def test_source_and_grown_model_agree_on_the_device(pair, precision):
    tokens = some_tokens(length=16)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    before, after = (logits(directory, tokens[:, :-1], DEVICE, dtype) for directory in pair)
    checked = compare(before, after, tokens[:, 1:], TOLERANCE[precision])
    assert checked.preserved, checked


def test_the_grown_model_on_the_device_agrees_with_the_source_on_the_cpu(pair):
    tokens = some_tokens(length=16)
    before, after = logits(pair[0], tokens[:, :-1], "cpu"), logits(pair[1], tokens[:, :-1], DEVICE)
    checked = compare(before, after, tokens[:, 1:], TOLERANCE["fp32"])
    assert checked.preserved, checked
