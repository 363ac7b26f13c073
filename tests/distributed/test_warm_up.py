"""What is compiled under ZeRO is compiled before the run's clock starts, and the warm-up changes no number."""

import os
from types import SimpleNamespace

import pytest
from torch._dynamo.backends.debugging import aot_eager

from grow.common import metric_names as names
from grow.training.engine import trainer
from grow.training.loop import callback

pytestmark = pytest.mark.slow
SHORT = ("trainer.max_tokens=384", "trainer.log_every_steps=1", "strategy=zero2")


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """File with a line for each graph that a rank compiles, and for the moment before its clock starts."""
    notes = tmp_path / "notes"

    def note(word):
        with notes.open("a") as file:
            file.write(f"{os.environ['RANK']} {word}\n")

    def backend(graph, inputs):
        note("compiled")
        return aot_eager(graph, inputs)

    def compile_blocks(model, mode):
        for block in model.get_decoder().layers if mode == "block" else ():
            block.compile(dynamic=False, backend=backend)

    monkeypatch.setattr(trainer, "compile_in_place", compile_blocks)
    collector = SimpleNamespace(freeze=lambda: note("started"), unfreeze=lambda: None, collect=lambda: None)
    monkeypatch.setattr(callback, "gc", collector)
    return notes


def test_no_step_compiles_anything_and_the_warm_up_leaves_no_gradient(train, rows, tmp_path, compiled):
    plain, warm = (
        train(tmp_path / mode / "run", 2, *SHORT, f"trainer.compile={mode}", "objective.chunk_rows=0")
        for mode in ("none", "block")
    )
    for rank in "01":
        words = [word for own, word in map(str.split, compiled.read_text().splitlines()) if own == rank]
        assert words.count("started") == 2 and words.count("compiled") >= 2
        assert words[-1] == "started"
    norms = [[row[names.GRAD_NORM] for row in rows(run) if names.GRAD_NORM in row] for run in (plain, warm)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
