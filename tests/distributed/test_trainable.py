"""Sampled sub-models on two processes: each step leaves other weights untrained, and equals that of one process."""

import json

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

pytestmark = pytest.mark.slow
SUBMODEL = (
    *("trainable=submodel", "trainable.block_layers=1", "model.layers=3"),
    *("trainer.micro_batch=2", "optimizer.max_grad_norm=0.5"),
)


@pytest.fixture(scope="module")
def alone(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone") / "run", 1, *SUBMODEL)


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_two_processes_sample_the_same_sub_models_and_train_the_same_weights(train, rows, alone, tmp_path, strategy):
    run = train(tmp_path / "run", 2, *SUBMODEL, f"strategy={strategy}")
    expected, found = (load_file(at / "model" / "model.safetensors") for at in (alone, run))
    for name in expected:
        assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5, msg=name)
    assert rows(run)[-1]["flops"] == rows(alone)[-1]["flops"]
    states = [json.loads((at / "checkpoints/step-00000010/state.json").read_text()) for at in (alone, run)]
    assert states[0]["updates_of_groups"] == states[1]["updates_of_groups"]
    assert len(set(states[0]["updates_of_groups"])) > 1  # blocks and the head have learned in other numbers of steps
