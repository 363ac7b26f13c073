"""Compiled runs: the same training, the same names."""

import shutil

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from grow.common import metric_names as names


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["block", "model"])
def test_compiling_changes_the_weights_by_rounding_only_and_no_name(train, trained_once, tmp_path, rows, mode):
    plain = trained_once()
    compiled = train(tmp_path / "compiled", f"trainer.compile={mode}")
    expected, found = (load_file(run / "model" / "model.safetensors") for run in (plain, compiled))
    assert found.keys() == expected.keys()
    for name in expected:
        assert_close(found[name], expected[name], rtol=1e-3, atol=2e-5, msg=name)
    losses = [[row[names.VAL_LOSS] for row in rows(run) if names.VAL_LOSS in row] for run in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_a_compiled_killed_run_continues_to_the_same_bits(train, tmp_path):
    run = train(tmp_path / "run", "trainer.compile=block")
    expected = load_file(run / "model" / "model.safetensors")
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints" / "step-00000010")
    found = load_file(train(run, "trainer.compile=block") / "model" / "model.safetensors")
    for name in expected:
        assert_close(found[name], expected[name], rtol=0, atol=0, msg=name)
