"""Saved and loaded at any point, an average goes on as if nothing had happened; other ranks take over its fragments."""

import json
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from grow.averaging.average import new_average
from grow.common.errors import CheckpointError
from tests.averaging.conftest import make_plan, reference_mean, same, walk


def save(average, directory):
    """As a training checkpoint would: one safetensors file and a bit of JSON."""
    directory.mkdir()
    save_file({key: tensor.clone() for key, tensor in average.tensors()}, directory / "averaging.safetensors")
    (directory / "averaging.json").write_text(json.dumps(average.state()))


def load(average, directory):
    tensors = load_file(directory / "averaging.safetensors")
    names = sorted({key.partition("/")[2] for key in tensors}, reverse=True)
    average.load(json.loads((directory / "averaging.json").read_text()), names, tensors.__getitem__)
    return average


@pytest.mark.parametrize("stop", [1, 4, 7, 12, 13, 19])  # before the start, filling, on a snapshot, full, between
@pytest.mark.parametrize(
    ("kind", "keys"),
    [("lawa", {}), ("lawa", {"storage": "disk"}), ("wsm", {}), ("ema", {}), ("swa", {})],
    ids=["lawa", "lawa-disk", "wsm", "ema", "swa"],
)
def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not_been(tmp_path, kind, keys, stop):
    plan = make_plan(kind, every_steps=3, start_tokens=2, min_snapshots=1, **keys)
    quiet, path = new_average(plan, tmp_path / "quiet"), walk(24)
    stopped = new_average(plan, tmp_path / "stopped")
    for step, weights in enumerate(path, 1):
        if plan.due(step):
            quiet.push(step, weights)
            stopped.push(step, weights)
        if step == stop:
            save(stopped, tmp_path / "state")
            stopped = load(new_average(plan, tmp_path / "resumed"), tmp_path / "state")
        if quiet.ready:
            assert same(stopped.mean(), quiet.mean())
    assert stopped.state() == quiet.state()
    assert same(dict(stopped.tensors()), dict(quiet.tensors()))


def test_the_names_of_what_is_saved_are_the_contract():
    lawa, ema = new_average(make_plan(k=2)), new_average(make_plan("ema"))
    for step, weights in enumerate(walk(3), 1):
        lawa.push(step, weights)
        ema.push(step, weights)
    assert [key for key, _ in lawa.tensors()] == [f"snapshot-{s}/{n}" for s in (2, 3) for n in ("matrix", "bias")]
    assert [key for key, _ in ema.tensors()] == ["total/matrix", "total/bias"]


def test_the_state_file_has_the_size_of_the_window(tmp_path):
    average = new_average(make_plan(k=3))
    for step, weights in enumerate(walk(9), 1):
        average.push(step, weights)
    save(average, tmp_path / "state")
    size = (tmp_path / "state" / "averaging.safetensors").stat().st_size
    assert 0 <= size - average.plan.held_bytes(1507) < 1000


def test_what_was_loaded_does_not_share_memory_with_where_it_came_from():
    for kind in ("lawa", "ema"):
        average = new_average(make_plan(kind, min_snapshots=1))
        average.push(1, walk(1)[0])
        saved = {key: tensor.clone() for key, tensor in average.tensors()}
        again = new_average(average.plan)
        again.load(average.state(), ["matrix", "bias"], saved.__getitem__)
        for tensor in saved.values():
            tensor.fill_(7)
        assert same(again.mean(), average.mean())


@pytest.mark.parametrize("ranks", [(2, 1), (1, 2), (2, 4), (3, 2)])
@pytest.mark.parametrize("kind", ["lawa", "ema"])
def test_another_number_of_ranks_cuts_the_fragments_anew(kind, ranks):
    """Two weights as one flat buffer, cut evenly: a part may hold the end of one weight and part of the next."""
    before, after = ranks
    plan, path, whole = make_plan(kind, k=3, min_snapshots=1), walk(7), new_average(make_plan(kind, k=3))
    sharded = [new_average(plan) for _ in range(before)]
    for step, weights in enumerate(path[:5], 1):
        whole.push(step, weights)
        for rank, average in enumerate(sharded):
            average.push(step, fragments(weights, rank, before))
    full = {}
    for average in sharded:
        for key, tensor in average.tensors():
            full[key] = torch.cat([full.get(key, torch.empty(0)), tensor])
    resumed = [new_average(plan) for _ in range(after)]
    for rank, average in enumerate(resumed):
        places = cuts(path[0], rank, after)
        average.load(
            sharded[0].state(), places, lambda key, places=places: full[key][slice(*places[key.partition("/")[2]])]
        )
    for step, weights in enumerate(path[5:], 6):
        whole.push(step, weights)
        for rank, average in enumerate(resumed):
            average.push(step, fragments(weights, rank, after))
    joined = {}
    for average in resumed:
        for name, tensor in average.mean().items():
            joined[name] = torch.cat([joined.get(name, torch.empty(0)), tensor])
    assert same(joined, {name: tensor.flatten() for name, tensor in whole.mean().items()})


def cuts(weights, rank, ranks):
    """name -> (start, stop) of the elements of each weight that a rank owns."""
    total = sum(tensor.numel() for tensor in weights.values())
    first, last = total * rank // ranks, total * (rank + 1) // ranks
    places, offset = {}, 0
    for name, tensor in weights.items():
        start, stop = max(first - offset, 0), min(last - offset, tensor.numel())
        if start < stop:
            places[name] = (start, stop)
        offset += tensor.numel()
    return places


def fragments(weights, rank, ranks):
    return {name: weights[name].flatten()[slice(*place)] for name, place in cuts(weights, rank, ranks).items()}


def test_a_smaller_window_keeps_the_newest_and_a_larger_one_fills_up(tmp_path):
    path, five = walk(9), new_average(make_plan(k=5))
    for step, weights in enumerate(path[:7], 1):
        five.push(step, weights)
    save(five, tmp_path / "state")
    three, eight = (
        load(new_average(make_plan(k=3)), tmp_path / "state"),
        load(new_average(make_plan(k=8)), tmp_path / "state"),
    )
    assert three.steps == [5, 6, 7] and same(three.mean(), reference_mean(path[4:7]))
    assert eight.steps == [3, 4, 5, 6, 7] and not eight.ready
    eight.push(8, path[7])
    assert eight.count == 6


def test_another_spacing_keeps_the_window_and_goes_on_at_its_own_multiples(tmp_path):
    path, average = walk(12), new_average(make_plan(k=3, every_steps=2))
    for step, weights in enumerate(path, 1):
        if average.plan.due(step):
            average.push(step, weights)
        if step == 7:
            save(average, tmp_path / "state")
            average = load(new_average(make_plan(k=3, every_steps=5)), tmp_path / "state")
            assert average.steps == [2, 4, 6]
    assert average.steps == [4, 6, 10]


def test_to_load_a_window_takes_no_more_than_a_tensor_or_two_beside_it():
    average, read = new_average(make_plan(k=3)), []
    for step, weights in enumerate(walk(3), 1):
        average.push(step, weights)
    saved = dict(average.tensors())

    def alone(key):
        assert sum(earlier() is not None for earlier in read) <= 1
        tensor = saved[key].clone()
        read.append(weakref.ref(tensor))
        return tensor

    again = new_average(average.plan)
    again.load(average.state(), ["matrix", "bias"], alone)
    assert len(read) == 6 and same(again.mean(), average.mean())


def test_a_window_read_through_a_linear_growth_is_the_grown_windows_average():
    """grow(mean) == mean(grow) for copies and shares that are powers of two: a window may be mapped, not only reset."""

    def grown(weight):  # HyperCloning's symmetric rule, n = 2
        return weight.tile(2, 2) / 2 if weight.dim() == 2 else weight.tile(2)

    average, path = new_average(make_plan(k=4)), walk(6)
    for step, weights in enumerate(path, 1):
        average.push(step, weights)
    saved = dict(average.tensors())
    mapped = new_average(make_plan(k=4))
    mapped.load(average.state(), average.mean(), lambda key: grown(saved[key]))
    assert mapped.steps == average.steps
    assert same(mapped.mean(), {name: grown(tensor) for name, tensor in average.mean().items()})
    mapped.push(7, {name: grown(tensor) for name, tensor in path[0].items()})
    assert mapped.steps == [4, 5, 6, 7]


def test_another_kind_of_average_is_refused(tmp_path):
    average = new_average(make_plan())
    average.push(1, walk(1)[0])
    save(average, tmp_path / "state")
    with pytest.raises(CheckpointError, match=r"averaging\.kind=ema, found one of lawa"):
        load(new_average(make_plan("ema")), tmp_path / "state")


def test_float64_weights_come_back_as_float64_from_a_running_total(tmp_path):
    weights = {"wide": torch.tensor([1 + 2.0**-50], dtype=torch.float64), "narrow": torch.ones(2)}
    average = new_average(make_plan("ema"))
    average.push(1, weights)
    save(average, tmp_path / "state")
    again = load(new_average(make_plan("ema")), tmp_path / "state")
    assert same(again.mean(), weights)
    assert [tensor.dtype for tensor in again.mean().values()] == [torch.float64, torch.float32]
