"""On a GPU a snapshot is copied while the GPU works on, and holds what the weights were when it was taken."""

import pytest
import torch

from grow.averaging.average import new_average
from tests.averaging.conftest import make_plan, reference_mean, same, walk

pytestmark = pytest.mark.gpu


def on_gpu(weights):
    return {name: tensor.cuda() for name, tensor in weights.items()}


@pytest.mark.parametrize("storage", ["host", "disk"])
def test_weights_that_change_right_after_the_push_were_copied_before(tmp_path, storage):
    average, path = new_average(make_plan(k=3, storage=storage), tmp_path / "window"), walk(8)
    live = on_gpu(path[0])
    for step, weights in enumerate(path, 1):
        for name, tensor in weights.items():
            live[name].copy_(tensor)
        average.push(step, live)
        for tensor in live.values():
            tensor.fill_(float("nan"))
    assert average.skipped == 0
    assert same(average.mean(), reference_mean(path[-3:]))


def test_a_push_takes_no_memory_of_the_gpu():
    average, live = new_average(make_plan(k=2)), {"weight": torch.randn(10_000_000, device="cuda")}
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for step in range(1, 5):
        average.push(step, live)
    assert average.count == 2
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() - before < 2**20


def test_a_snapshot_that_is_not_finite_leaves_the_window_as_it_was():
    average, path = new_average(make_plan(k=2)), walk(4)
    for step, weights in enumerate(path, 1):
        weights = on_gpu(weights)
        if step == 3:
            weights["bias"][2] = float("inf")
        average.push(step, weights)
    assert average.skipped == 1 and average.steps == [2, 4]
    assert same(average.mean(), reference_mean([path[1], path[3]]))
