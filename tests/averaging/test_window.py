"""The windows: which snapshots are in the mean, to the bit, and nothing of the live weights in the average's hands."""

import itertools

import pytest
import torch

from grow.averaging.average import new_average
from grow.averaging.weighting import emulated_decay
from tests.averaging.conftest import make_plan, reference_mean, same, walk

STORES = ["host", "disk"]


def average_of(plan, tmp_path):
    return new_average(plan, tmp_path / "window")


@pytest.mark.parametrize(
    ("storage", "k", "every_steps"), [*itertools.product(["host"], [1, 2, 3, 5, 6, 20], [1, 3]), ("disk", 3, 2)]
)
def test_after_every_push_the_mean_is_the_reference_over_what_the_window_holds(tmp_path, storage, k, every_steps):
    average = average_of(make_plan(k=k, every_steps=every_steps, min_snapshots=1, storage=storage), tmp_path)
    pushed = []
    for step, weights in enumerate(walk(3 * k * every_steps), 1):
        if average.plan.due(step):
            average.push(step, weights)
            pushed.append((step, weights))
            window = pushed[-k:]
            assert average.steps == [at for at, _ in window]
            assert same(average.mean(), reference_mean([values for _, values in window]))
    assert [step for step, _ in pushed] == list(range(every_steps, 3 * k * every_steps + 1, every_steps))


@pytest.mark.parametrize("storage", STORES)
def test_every_push_after_the_kth_changes_exactly_one_member(tmp_path, storage):
    average = average_of(make_plan(k=4, storage=storage), tmp_path)
    members = []
    for step, weights in enumerate(walk(12), 1):
        average.push(step, weights)
        members.append(set(average.steps))
    for before, now in itertools.pairwise(members[3:]):
        assert len(now - before) == len(before - now) == 1


def test_a_window_over_the_whole_run_is_the_mean_of_everything(tmp_path):
    path = walk(40)
    average = average_of(make_plan(k=40, total_steps=40), tmp_path)
    for step, weights in enumerate(path, 1):
        average.push(step, weights)
    assert same(average.mean(), reference_mean(path))


@pytest.mark.parametrize("kind", ["lawa", "swa"])
@pytest.mark.parametrize("count", [3, 6, 7, 10])
def test_equal_snapshots_give_the_same_bits_back(tmp_path, kind, count):
    keys = {"k": count} if kind == "lawa" else {}
    average, weights = average_of(make_plan(kind, **keys), tmp_path), walk(1)[0]
    for step in range(1, count + 1):
        average.push(step, weights)
    assert same(average.mean(), weights)
    naive = sum(weights["matrix"] for _ in range(count)) / count
    assert count == 3 or not torch.equal(naive, weights["matrix"])  # what the recipe is for


def test_a_constant_weight_stays_what_it_is_while_the_window_fills(tmp_path):
    average = average_of(make_plan(k=5, min_snapshots=1), tmp_path)
    for step in range(1, 8):
        average.push(step, {"weight": torch.ones(3)})
        assert torch.equal(average.mean()["weight"], torch.ones(3))


def test_there_is_no_average_before_min_snapshots_and_asking_for_it_raises(tmp_path):
    average = average_of(make_plan(k=5, min_snapshots=3), tmp_path)
    for step, weights in enumerate(walk(3), 1):
        assert not average.ready
        with pytest.raises(ValueError, match="at least 3 snapshots, found"):
            average.mean()
        average.push(step, weights)
    assert average.ready


def test_a_window_waits_for_k_snapshots_unless_told_otherwise(tmp_path):
    average = average_of(make_plan(k=5), tmp_path)
    for step, weights in enumerate(walk(5), 1):
        assert not average.ready
        average.push(step, weights)
    assert average.ready


@pytest.mark.parametrize("storage", STORES)
def test_snapshots_do_not_alias_the_live_weights(tmp_path, storage):
    average = average_of(make_plan(k=2, storage=storage), tmp_path)
    live, path = {name: tensor.clone() for name, tensor in walk(1)[0].items()}, walk(2, seed=1)
    for step, weights in enumerate(path, 1):
        for name, tensor in weights.items():
            live[name].copy_(tensor)
        average.push(step, live)
    for tensor in live.values():
        tensor.fill_(7)
    assert same(average.mean(), reference_mean(path))


@pytest.mark.parametrize("kind", ["lawa", "ema", "swa", "wsm"])
def test_what_the_mean_returns_belongs_to_the_caller(tmp_path, kind):
    average = average_of(make_plan(kind, **({} if kind in ("swa", "ema") else {"k": 1})), tmp_path)
    average.push(1, walk(1)[0])
    before = average.mean()
    for tensor in average.mean().values():
        tensor.fill_(7)
    assert same(average.mean(), before)


@pytest.mark.parametrize("kind", ["lawa", "ema", "swa", "wsm"])
def test_pushing_and_averaging_leave_the_weights_and_the_random_state_alone(tmp_path, kind):
    live = {name: tensor.requires_grad_() for name, tensor in walk(1)[0].items()}
    values = {name: tensor.detach().clone() for name, tensor in live.items()}
    places, random = [tensor.data_ptr() for tensor in live.values()], torch.get_rng_state()
    average = average_of(make_plan(kind, min_snapshots=1), tmp_path)
    for step in (1, 2, 3):
        average.push(step, live)
        assert not any(tensor.requires_grad for tensor in average.mean().values())
    assert same({name: tensor.detach() for name, tensor in live.items()}, values)
    assert [tensor.data_ptr() for tensor in live.values()] == places
    assert torch.equal(torch.get_rng_state(), random)
    assert all(tensor.requires_grad and tensor.grad is None for tensor in live.values())


@pytest.mark.parametrize("kind", ["lawa", "ema", "swa", "wsm"])
def test_the_average_of_thirds_is_the_thirds_of_the_average(tmp_path, kind):
    """A rank that owns a fragment of each weight needs nobody else. Big enough for whole chunks and ragged ends."""
    generator = torch.Generator().manual_seed(0)
    path = [{"weight": torch.randn(400_001, generator=generator) * 10.0 ** (i - 5)} for i in range(7)]
    whole = average_of(make_plan(kind), tmp_path)
    bounds = [0, 131_071, 262_150, 400_001]
    parts = [average_of(make_plan(kind), tmp_path) for _ in range(3)]
    for step, weights in enumerate(path, 1):
        whole.push(step, weights)
        for part, (start, stop) in zip(parts, itertools.pairwise(bounds), strict=True):
            part.push(step, {"weight": weights["weight"][start:stop]})
    joined = torch.cat([part.mean()["weight"] for part in parts])
    assert torch.equal(whole.mean()["weight"], joined)


def test_a_mean_does_not_depend_on_the_order_of_its_snapshots(tmp_path):
    path = walk(9)
    means = []
    for order in (range(9), reversed(range(9)), [4, 0, 8, 2, 6, 1, 7, 3, 5]):
        average = average_of(make_plan(k=9), tmp_path)
        for step, index in enumerate(order, 1):
            average.push(step, path[index])
        means.append(average.mean())
    assert same(means[0], means[1]) and same(means[0], means[2])


def test_mixed_magnitudes_average_to_the_reference(tmp_path):
    path = [{"weight": w["matrix"] * 10.0**exponent} for w, exponent in zip(walk(12), range(-8, 4), strict=True)]
    average = average_of(make_plan(k=12), tmp_path)
    for step, weights in enumerate(path, 1):
        average.push(step, weights)
    assert same(average.mean(), reference_mean(path))


def test_ten_thousand_pushes_do_not_drift(tmp_path):
    average, weights = average_of(make_plan(k=6), tmp_path), {"weight": torch.zeros(100)}
    generator, latest = torch.Generator().manual_seed(0), []
    for step in range(1, 10_001):
        weights = {"weight": weights["weight"] + 0.01 * torch.randn(100, generator=generator)}
        average.push(step, weights)
        latest = [*latest[-5:], weights]
    assert same(average.mean(), reference_mean(latest))


def test_bfloat16_weights_are_kept_and_averaged_in_float32(tmp_path):
    path = [{"weight": w["matrix"].bfloat16()} for w in walk(4)]
    average = average_of(make_plan(k=4), tmp_path)
    for step, weights in enumerate(path, 1):
        average.push(step, weights)
    assert average.mean()["weight"].dtype == torch.float32
    assert same(average.mean(), reference_mean(path))


def test_float64_weights_lose_nothing(tmp_path):
    average = average_of(make_plan(k=1), tmp_path)
    weights = {"weight": torch.tensor([1 + 2.0**-50], dtype=torch.float64)}
    average.push(1, weights)
    assert same(average.mean(), weights)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", ["lawa", "ema", "swa", "wsm"])
def test_a_snapshot_that_is_not_finite_changes_nothing_and_is_counted(tmp_path, kind, bad):
    average, path = average_of(make_plan(kind, min_snapshots=1), tmp_path), walk(8)
    clean = average_of(make_plan(kind, min_snapshots=1), tmp_path)
    for step, weights in enumerate(path, 1):
        if step == 6:
            damaged = {name: tensor.clone() for name, tensor in weights.items()}
            damaged["matrix"][17, 3] = bad
            before = average.mean()
            average.push(step, damaged)
            assert same(average.mean(), before)
        else:
            average.push(step, weights)
            clean.push(step, weights)
    assert average.skipped == 1 and clean.skipped == 0
    assert same(average.mean(), clean.mean()) and average.steps == clean.steps


def test_ranks_that_agree_leave_a_snapshot_out_together(tmp_path):
    verdicts = []
    average = new_average(make_plan(k=2), agree=lambda finite: verdicts.append(finite) or False)
    average.push(1, walk(1)[0])
    assert verdicts == [True] and average.skipped == 1 and average.count == 0


@pytest.mark.parametrize("storage", STORES)
def test_what_is_held_is_k_snapshots_and_no_more_however_many_are_pushed(tmp_path, storage):
    average = average_of(make_plan(k=3, storage=storage), tmp_path)
    for step, weights in enumerate(walk(60), 1):
        average.push(step, weights)
        if step >= 3:
            held = sum(tensor.nbytes for _, tensor in average.tensors())
            assert held == average.plan.held_bytes(1507) == 4 * 3 * 1507
    if storage == "disk":
        assert len(list((tmp_path / "window").iterdir())) == 3


def test_the_buffers_of_a_window_are_made_once(tmp_path):
    average = average_of(make_plan(k=3), tmp_path)
    places = []
    for step, weights in enumerate(walk(12), 1):
        average.push(step, weights)
        places.append({tensor.data_ptr() for _, tensor in average.tensors()})
    assert all(place == places[2] for place in places[3:])


def test_a_running_average_holds_one_total_however_many_are_pushed(tmp_path):
    average = average_of(make_plan("ema"), tmp_path)
    for step, weights in enumerate(walk(30), 1):
        average.push(step, weights)
        assert sum(tensor.nbytes for _, tensor in average.tensors()) == average.plan.held_bytes(1507) == 8 * 1507


def test_a_disk_window_starts_empty_whatever_lies_there(tmp_path):
    average = average_of(make_plan(k=2, storage="disk"), tmp_path)
    average.push(1, walk(1)[0])
    again = average_of(make_plan(k=2, storage="disk"), tmp_path)
    assert again.count == 0 and not list((tmp_path / "window").iterdir())


def test_a_disk_window_removes_nothing_but_snapshots(tmp_path):
    (tmp_path / "window").mkdir()
    (tmp_path / "window" / "notes.txt").write_text("mine")
    average_of(make_plan(k=2, storage="disk"), tmp_path).reset()
    assert (tmp_path / "window" / "notes.txt").read_text() == "mine"


def test_a_swa_is_the_mean_of_all_snapshots_to_the_bit(tmp_path):
    average, path = average_of(make_plan("swa"), tmp_path), walk(50)
    for step, weights in enumerate(path, 1):
        average.push(step, weights)
    assert same(average.mean(), reference_mean(path))


def test_an_ema_is_its_recursion_in_float64(tmp_path):
    average, path = average_of(make_plan("ema", k=None, decay=0.9), tmp_path), walk(50)
    expected = path[0]["matrix"].double()
    for step, weights in enumerate(path, 1):
        average.push(step, weights)
        if step > 1:
            expected = 0.9 * expected + (1 - 0.9) * weights["matrix"].double()
    assert torch.equal(average.mean()["matrix"], expected.float())


def test_an_ema_moves_where_bfloat16_would_stand_still(tmp_path):
    average = average_of(make_plan("ema", k=None, decay=0.999), tmp_path)
    average.push(1, {"weight": torch.ones(1).bfloat16()})
    for step in range(2, 2002):
        average.push(step, {"weight": torch.full((1,), 1.5).bfloat16()})
    assert average.mean()["weight"].item() == pytest.approx(1.5 - 0.5 * 0.999**2000, abs=1e-6)


def test_a_wsm_is_the_decayed_run_it_stands_for(tmp_path):
    path, n = walk(6), 6
    average = average_of(make_plan("wsm", k=n), tmp_path)
    for step, weights in enumerate(path, 1):
        average.push(step, weights)
    expected = path[0]["matrix"].double()
    for i in range(1, n):
        expected = expected + (1 - (i / n) ** 0.5) * (path[i]["matrix"].double() - path[i - 1]["matrix"].double())
    assert torch.allclose(average.mean()["matrix"].double(), expected, rtol=0, atol=3e-7)
    assert not torch.allclose(reference_mean(path)["matrix"].double(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("k", [2, 5, 12])
def test_a_lawa_is_an_emulated_linear_cooldown(k):
    """WSM's theorem in the uniform case: oldest + sum of (k - i) / k times the i-th update."""
    path = [weights["matrix"].double() for weights in walk(k)]
    cooled = path[0] + sum((k - i) / k * (path[i] - path[i - 1]) for i in range(1, k))
    mean = torch.stack(path).mean(0)
    assert torch.allclose(mean, cooled, rtol=0, atol=1e-12)
    assert emulated_decay("linear", k).takes == pytest.approx([1 / k] * k, abs=1e-12)


def test_steps_go_forward_and_weights_keep_their_shapes(tmp_path):
    average = average_of(make_plan(), tmp_path)
    average.push(3, {"weight": torch.ones(2)})
    with pytest.raises(ValueError, match="after 3, got one of step 3"):
        average.push(3, {"weight": torch.ones(2)})
    with pytest.raises(ValueError, match="names, shapes and dtypes"):
        average.push(4, {"weight": torch.ones(3)})
    with pytest.raises(ValueError, match="names, shapes and dtypes"):
        average.push(4, {"other": torch.ones(2)})


def test_a_reset_forgets_every_snapshot_and_takes_other_shapes(tmp_path):
    average = average_of(make_plan(k=2, min_snapshots=1), tmp_path)
    for step, weights in enumerate(walk(3), 1):
        average.push(step, weights)
    average.reset()
    assert not average.ready and average.steps == []
    average.push(4, {"grown": torch.ones(8)})
    assert torch.equal(average.mean()["grown"], torch.ones(8))
