"""What is compiled is compiled before the run's clock starts, under every strategy, and changes no number."""

from types import SimpleNamespace

import pytest
from safetensors.torch import load_file
from torch._dynamo.backends.debugging import aot_eager
from torch.testing import assert_close

from grow.training.engine import trainer
from grow.training.loop import callback

pytestmark = pytest.mark.slow
SHORT = ("trainer.max_tokens=384", "trainer.compile=block")


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """File with a line for each graph that any rank compiles, and one for the moment before its clock starts."""
    notes = tmp_path / "notes"

    def note(word):
        with notes.open("a") as file:
            file.write(f"{word}\n")

    def backend(graph, inputs):
        note("compiled")
        return aot_eager(graph, inputs)

    def compile_blocks(model, mode):
        for block in model.get_decoder().layers:
            block.compile(dynamic=False, backend=backend)

    monkeypatch.setattr(trainer, "compile_in_place", compile_blocks)
    collector = SimpleNamespace(freeze=lambda: note("started"), unfreeze=lambda: None, collect=lambda: None)
    monkeypatch.setattr(callback, "gc", collector)
    return notes


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_no_step_compiles_anything_and_the_warm_up_leaves_no_gradient(train, tmp_path, compiled, strategy):
    plain, warm = (
        train(tmp_path / name, 2, *SHORT, f"strategy={kind}", "objective.chunk_rows=0")
        for name, kind in (("plain", "ddp"), ("warm", strategy))
    )
    words = compiled.read_text().split()
    assert words.count("started") == 4 and words.count("compiled") >= 4
    assert words[-1] == "started"
    found, expected = (load_file(run / "model" / "model.safetensors") for run in (warm, plain))
    for name in expected:
        assert_close(found[name], expected[name], rtol=1e-3, atol=2e-5, msg=name)
