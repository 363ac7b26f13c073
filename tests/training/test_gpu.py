"""Training on a CUDA device: the loss's kernels, float32 against CPU, bfloat16 with compiled blocks.

`GROW_TEST_DEVICE=cpu python -m pytest -m gpu` runs the same tests without a GPU.
"""

import math
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from grow.common import metric_names as names
from grow.training.step.objective import NextTokenLoss

pytestmark = pytest.mark.gpu
DEVICE = os.environ.get("GROW_TEST_DEVICE", "cuda")
ACCELERATOR = "cpu" if DEVICE == "cpu" else "gpu"
ROWS, WIDTH, VOCAB, CHUNK_ROWS = 1000, 64, 1500, 256  # the last chunk is shorter


@pytest.fixture(autouse=True)
def device():
    """The device to test; nothing touches CUDA before this."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture
def problem():
    """Hidden states, head weight and targets of a prediction that is neither certain nor hopeless."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, WIDTH, generator=generator).to(DEVICE).requires_grad_()
    head = torch.randn(VOCAB, WIDTH, generator=generator).mul(0.3).to(DEVICE).requires_grad_()
    return hidden, head, torch.randint(VOCAB, (ROWS,), generator=generator).to(DEVICE)


def value_and_gradients(loss, hidden, head):
    return loss.detach(), *torch.autograd.grad(loss, (hidden, head))


def exact(hidden, head, targets):
    """Cross-entropy by torch in float64, and its gradients."""
    wide, weight = (tensor.detach().double().requires_grad_() for tensor in (hidden, head))
    return value_and_gradients(functional.cross_entropy(wide @ weight.T, targets), wide, weight)


def relative_errors(found, wanted):
    return [float((one - other).norm() / other.norm()) for one, other in zip(found, wanted, strict=True)]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_the_chunked_loss_in_float32_equals_cross_entropy(problem, compiled):
    hidden, head, targets = problem
    loss = NextTokenLoss(chunk_rows=CHUNK_ROWS, compiled=compiled)(hidden, head, targets)
    plain = functional.cross_entropy(functional.linear(hidden, head), targets)
    assert max(relative_errors(value_and_gradients(loss, hidden, head), exact(*problem))) < 2e-6
    assert max(relative_errors(value_and_gradients(plain, hidden, head), exact(*problem))) < 2e-6


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_the_chunked_loss_under_bfloat16_autocast_is_close_to_it(problem, compiled):
    hidden, head, targets = problem
    with torch.autocast(DEVICE, torch.bfloat16):
        loss = NextTokenLoss(chunk_rows=CHUNK_ROWS, compiled=compiled)(hidden, head, targets)
    assert loss.dtype == torch.float32
    value, *gradients = relative_errors(value_and_gradients(loss, hidden, head), exact(*problem))
    assert 0 < value < 1e-3  # not equal: bfloat16 was really used
    assert max(gradients) < 1e-2


def test_the_loss_without_gradients_is_the_same(problem):
    with torch.no_grad():
        loss = NextTokenLoss(chunk_rows=CHUNK_ROWS)(*problem)
    torch.testing.assert_close(loss.double(), exact(*problem)[0], rtol=2e-6, atol=0)


def losses(rows):
    return [
        (row["step"], name, row[name]) for row in rows for name in (names.TRAIN_LOSS, names.VAL_LOSS) if name in row
    ]


def test_float32_training_gives_the_losses_of_a_cpu(train, rows, tmp_path):
    steps = ("trainer.max_tokens=640", "trainer.log_every_steps=1", "optimizer.lr=0.003")
    reference = losses(rows(train(tmp_path / "cpu", *steps, "trainer.accelerator=cpu")))
    found = losses(rows(train(tmp_path / "device", *steps, f"trainer.accelerator={ACCELERATOR}")))
    assert [each[:2] for each in found] == [each[:2] for each in reference]
    assert [each[2] for each in found] == pytest.approx([each[2] for each in reference], abs=1e-4)


def test_bfloat16_with_compiled_blocks_learns_and_exports_stock_names(train, rows, tmp_path):
    device = (f"trainer.accelerator={ACCELERATOR}", "trainer.precision=bf16", "trainer.compile=block")
    run = train(tmp_path / "run", *device, "trainer.max_tokens=12800", "trainer.val_every_tokens=6400")
    validation = [row[names.VAL_LOSS] for row in rows(run) if names.VAL_LOSS in row]
    assert validation[0] == pytest.approx(math.log(64), abs=0.1)
    assert validation[-1] < validation[0] - 1
    from transformers import AutoModelForCausalLM

    stored = load_file(run / "model" / "model.safetensors")
    assert stored.keys() == AutoModelForCausalLM.from_pretrained(run / "model").state_dict().keys()
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


def test_a_run_continues_on_the_device_from_its_checkpoint(train, rows, tmp_path):
    device = f"trainer.accelerator={ACCELERATOR}"
    whole = rows(train(tmp_path / "run", device))
    run = tmp_path / "run"
    for path in (run / "model", *sorted((run / "checkpoints").iterdir())[1:]):
        shutil.rmtree(path)
    resumed = rows(train(tmp_path / "run", device))
    assert [each[:2] for each in losses(resumed)] == [each[:2] for each in losses(whole)]
    assert losses(resumed)[-1][2] == pytest.approx(losses(whole)[-1][2], abs=1e-4)
