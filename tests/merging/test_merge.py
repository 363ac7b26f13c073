"""Merges of files: closed forms, hand-written examples, the same bits however they are made, and refusals."""

import dataclasses
import math
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from grow.cli.config import compose
from grow.common.errors import CheckpointError, ConfigError
from grow.common.places import CONFIG_DIR
from grow.growth.gallery import presets
from grow.growth.ledger import Ledger
from grow.merging.merge_models import merge_models, report_lines
from grow.merging.settings import MergeConfig, MergingSettings
from tests.merging.models import load_all, write_models

PRESETS = [preset.name for preset in presets(CONFIG_DIR / "merging")]
BASED = [name for name in PRESETS if name not in ("linear", "slerp", "karcher")]


def preset(name: str, *overrides: str) -> MergingSettings:
    based = [] if name not in BASED else ["base=B"]
    return compose([f"merging={name}", "models=[M]", "output=O", *based, *overrides], "merge", MergeConfig).merging


def merged(tmp_path, base, models, settings, name="out", **keys):
    """Merge tensors, given as name -> tensor, and return the tensors of the result."""
    written = write_models(tmp_path, [*([] if base is None else [base]), *models])
    origin, others = (None, written) if base is None else (written[0], written[1:])
    settings = dataclasses.replace(settings, unrelated=True)
    merge_models(origin, others, settings, tmp_path / name, **keys)
    return load_all(tmp_path / name)


def by_hand(tmp_path, deltas, settings, dtype=torch.float64):
    """The merge of deltas from a base of zeros and ones."""
    base = torch.tensor([[0.0, 1, 0, 1], [1, 0, 1, 0], [0, 0, 1, 1]], dtype=dtype)
    models = [{"w": base + torch.tensor(delta, dtype=dtype)} for delta in deltas]
    return merged(tmp_path, {"w": base}, models, settings)["w"] - base


ONE = [[4.0, -3, 2, 1], [0, 1, -5, 6], [1, -1, 2, 2]]
TWO = [[-4.0, -1, 2, 3], [1, 1, 5, 2], [7, -2, 1, -2]]


def check(found, expected):
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12), found


def test_by_hand_task_arithmetic_adds_up(tmp_path):
    check(by_hand(tmp_path, [ONE, TWO], preset("task_arithmetic", "merging.scale=0.5", "merging.weights=[1,-1]")),
          [[4, -1, 0, -1], [-0.5, 0, -5, 2], [-3, 0.5, 0.5, 2]])  # fmt: skip


def test_by_hand_ties_leaves_the_base_where_a_vote_is_zero_and_keeps_equal_magnitudes_in_order(tmp_path):
    # Of ONE, 6 of 12 stay: 6 -5 4 -3 and the first two of 2 2 2. Of TWO: 7 5 -4 3 and the first two of four.
    check(by_hand(tmp_path, [ONE, TWO], preset("ties", "merging.drop=0.5")),
          [[0, -3, 2, 3], [0, 0, 0, 4], [7, 0, 2, 0]])  # fmt: skip


def test_by_hand_a_vote_by_count_asks_the_signs_alone(tmp_path):
    three = [[[9.0, 0, 0, 0]] * 3, [[-1.0, 0, 0, 0]] * 3, [[-2.0, 0, 0, 0]] * 3]
    for elect, expected in (("mass", 9.0), ("count", -1.5)):
        found = by_hand(tmp_path / elect, three, MergingSettings(name="x", elect=elect, combine="agreeing"))
        check(found, [[expected, 0, 0, 0]] * 3)


def test_by_hand_breadcrumbs_leaves_out_largest_and_smallest(tmp_path):
    settings = preset("breadcrumbs", "merging.drop=0.5", "merging.outliers=0.17")  # 2 of 12 above, 4 below
    check(by_hand(tmp_path, [ONE], settings), [[4, -3, 2, 1], [0, 0, 0, 0], [0, 0, 2, 2]])


def test_by_hand_sce_weights_by_squares_what_varies_most(tmp_path):
    # 3 of 12 vary most: 4 -4; -5 5; 1 7. Squares: 42 and 90. Votes: 0, 0 and +.
    check(by_hand(tmp_path, [ONE, TWO], preset("sce", "merging.drop=0.75")),
          [[0, 0, 0, 0], [0, 0, 0, 0], [(42 + 7 * 90) / 132, 0, 0, 0]])  # fmt: skip


def test_by_hand_linear_is_the_weighted_mean(tmp_path):
    made = merged(tmp_path, None, [{"w": torch.tensor([[1.0]])}, {"w": torch.tensor([[5.0]])}],
                  preset("linear", "merging.weights=[3,1]"))  # fmt: skip
    assert made["w"].item() == 2


@pytest.mark.parametrize("t, expected", [(0, [3.0, 0]), (1, [0.0, 5]), (0.5, [3 / math.sqrt(2), 5 / math.sqrt(2)])])
def test_slerp_has_both_ends_and_the_middle_of_orthogonal_vectors(tmp_path, t, expected):
    vectors = [{"w": torch.tensor([[3.0, 0]]).double()}, {"w": torch.tensor([[0.0, 5]]).double()}]
    check(merged(tmp_path, None, vectors, preset("slerp", f"merging.weights=[{1 - t},{t}]"))["w"][0], expected)


def test_karcher_of_equal_models_is_the_model_and_of_orthogonal_ones_their_diagonal(tmp_path):
    one = {"w": torch.randn(3, 4, dtype=torch.float64)}
    made = merged(tmp_path / "a", None, [one] * 3, preset("karcher"))["w"]
    assert torch.allclose(made, one["w"], rtol=0, atol=1e-12)
    axes = [{"w": 2 * torch.eye(3, dtype=torch.float64)[i : i + 1]} for i in range(3)]
    check(merged(tmp_path / "b", None, axes, preset("karcher"))["w"][0], [2 / math.sqrt(3)] * 3)


def test_model_stock_of_orthogonal_deltas_is_the_base_and_of_equal_ones_their_mean(tmp_path):
    zero, right = [[0.0] * 4] * 3, [[1.0, 0, 0, 0]] * 3
    check(by_hand(tmp_path / "a", [right, [[0.0, 3, 0, 0]] * 3], preset("model_stock")), zero)
    check(by_hand(tmp_path / "b", [right, right], preset("model_stock")), right)


@pytest.fixture(scope="module")
def trio():
    """A base with a negative zero, and two models near it: several tensors, one of them of whole numbers."""
    torch.manual_seed(0)
    shapes = {"b.weight": (40, 30), "a.weight": (64, 48), "c.bias": (50,), "d.scale": ()}
    base = {name: torch.randn(shape) for name, shape in shapes.items()} | {"count": torch.tensor([3, 4])}
    base["a.weight"][0, 0] = -0.0
    floats = [name for name in base if base[name].is_floating_point()]
    models = [base | {name: base[name] + 0.1 * torch.randn(base[name].shape) for name in floats} for _ in range(2)]
    return [{name: tensor.bfloat16().to(tensor.dtype) for name, tensor in each.items()} for each in (base, *models)]


def bits(tensors):
    return {name: tensor.reshape(-1).view(torch.uint8).tolist() for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", ["ties", "dare_ties", "della", "sce", "model_stock"])
def test_scale_zero_is_the_base_to_the_bit(tmp_path, trio, name):
    assert bits(merged(tmp_path, trio[0], trio[1:], preset(name, "merging.scale=0"))) == bits(trio[0])


@pytest.mark.parametrize(
    "name, keys",
    [("task_arithmetic", []), ("ties", ["merging.drop=0"]), ("dare", ["merging.drop=0"]),
     ("breadcrumbs", ["merging.drop=0", "merging.outliers=0"]), ("della", ["merging.drop=0", "merging.spread=0"])],
)  # fmt: skip
def test_one_model_of_which_nothing_is_dropped_is_that_model(tmp_path, trio, name, keys):
    made = merged(tmp_path, trio[0], [trio[1]], preset(name, *keys))
    assert all(torch.equal(made[each], trio[1][each]) for each in made)


@pytest.mark.parametrize("name", [n if n == "dare_ties" else pytest.param(n, marks=pytest.mark.slow) for n in PRESETS])
def test_bits_depend_on_values_alone(tmp_path, trio, name, monkeypatch):
    """One or four workers, three sizes of files, tensors in another order, bfloat16 models, blocks of another size."""
    base = None if name not in BASED else trio[0]
    keys = ["merging.spread=0.1"] if name == "della" else []
    expected = bits(merged(tmp_path / "0", base, trio[1:], preset(name, *keys), workers=1))
    halves = [{n: t.bfloat16() if t.is_floating_point() else t for n, t in each.items()} for each in trio[1:]]
    turned = [dict(reversed(each.items())) for each in trio]
    ways = [
        (base, trio[1:], {"workers": 2, "max_shard_bytes": 4000}),
        (base and turned[0], turned[1:], {"workers": 4, "max_shard_bytes": 9000}),
    ]
    if base is not None:  # without a base the dtype of the result is the first model's
        ways.append((base, halves, {"workers": 1}))
    for number, (origin, models, how) in enumerate(ways, 1):
        assert bits(merged(tmp_path / str(number), origin, models, preset(name, *keys), **how)) == expected
    monkeypatch.setattr("grow.merging.merged_tensor.BLOCK", 130)
    if name not in ("sce",):  # whose sums of squares are taken block by block
        assert bits(merged(tmp_path / "b", base, trio[1:], preset(name, *keys))) == expected


@pytest.mark.slow
def test_a_merge_killed_at_any_file_continues_to_the_same_bits(tmp_path, trio):
    written = write_models(tmp_path, trio)
    settings, how = preset("dare_ties"), {"max_shard_bytes": 4000, "workers": 1}
    whole = merge_models(written[0], written[1:], settings, tmp_path / "whole", **how)
    files = len(list((tmp_path / "whole").glob("*.safetensors")))
    assert files > 2
    for last in range(1, files + 1):
        output = tmp_path / f"killed{last}"
        if (child := os.fork()) == 0:
            torch.set_num_threads(1)
            _die_after(last)
            merge_models(written[0], written[1:], settings, output, **how)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL and not output.exists()
        record = merge_models(written[0], written[1:], settings, output, **how)
        assert f"after {last} of" in record.continued and record.kept == whole.kept
        assert bits(load_all(output)) == bits(load_all(tmp_path / "whole"))


def _die_after(files):
    add, count = Ledger.add, []

    def counted(self, name, digest):
        add(self, name, digest)
        count.append(name)
        if len(count) == files:
            os.kill(os.getpid(), signal.SIGKILL)

    Ledger.add = counted


def test_what_a_merge_says_and_records(tmp_path, trio):
    written = write_models(tmp_path, trio)
    record = merge_models(written[0], written[1:], preset("dare", "merging.drop=0.99"), tmp_path / "out")
    lines = list(report_lines(record))
    assert "r = " in lines[0] and "warning" in lines[1]
    delta, base = (
        torch.cat([t.flatten().double() for t in each])
        for each in (
            [trio[1][n] - trio[0][n] for n in trio[0] if n != "count"],
            [t for n, t in trio[0].items() if n != "count"],
        )
    )
    ratio = float(delta.norm() / base.norm())
    assert record.models[0]["delta"] == pytest.approx(ratio)
    assert record.models[0]["noise"] == pytest.approx(math.sqrt(99) * ratio)
    assert record.copied == ["count"] and len(record.kept["a.weight"]) == 2
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == trio[0].keys()


REFUSED_KEYS = {
    "task_arithmetic": ["drop=0.5", "scope=model", "rescale=unbiased", "outliers=0.1", "spread=0.1", "seed=1",
                        "combine=agreeing", "thin=random", "weights=[1,2]"],
    "ties": ["drop=1", "drop=-0.1", "rescale=unbiased", "scope=null", "weights=[-1]", "weights=[0]"],
    "della": ["spread=0.9", "scope=tensor"],
    "linear": ["scale=0.5", "elect=mass", "combine=stock"],
    "model_stock": ["weights=[1]", "elect=mass", "thin=largest"],
    "sce": ["weights=[1]", "drop=null"],
    "breadcrumbs": ["outliers=0.9", "outliers=null"],
}  # fmt: skip


@pytest.mark.parametrize("name, key", [(name, key) for name, keys in REFUSED_KEYS.items() for key in keys])
def test_fields_without_a_meaning_are_refused(name, key):
    with pytest.raises(ConfigError, match="merging"):
        preset(name, f"merging.{key}").check_models(1)


@pytest.mark.parametrize("name", ["slerp", "karcher", "model_stock", "sce"])
def test_a_number_of_models_that_does_not_fit_is_refused(name):
    with pytest.raises(ConfigError, match="models"):
        preset(name).check_models(1)


@pytest.mark.parametrize("arguments", [["merging=ties"], ["merging=linear", "base=B"]])
def test_a_base_is_named_exactly_where_there_are_deltas(arguments):
    with pytest.raises(ConfigError, match="base"):
        compose(["models=[M]", "output=O", *arguments], "merge", MergeConfig)


def changed(tensors, name, tensor):
    return {key: value for key, value in (tensors | {name: tensor}).items() if value is not None}


@pytest.mark.parametrize(
    "name, tensor, said",
    [
        ("b.weight", torch.zeros(41, 30), r"tensor b.weight: \(40, 30\) in .*0.safetensors, \(41, 30\) in .*2"),
        ("b.weight", None, "tensor b.weight: .*missing in .*2.safetensors"),
        ("c.bias", torch.full((50,), math.nan), "tensor c.bias holds values that are not finite"),
        ("c.bias", torch.zeros(50, dtype=torch.int64), "int64"),
    ],
)
def test_what_cannot_be_right_is_refused_and_leaves_nothing(tmp_path, trio, name, tensor, said):
    written = write_models(tmp_path, [*trio[:2], changed(trio[2], name, tensor)])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=said):
        merge_models(written[0], written[1:], preset("ties"), tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_models_of_no_common_ancestor_are_refused_unless_said(tmp_path, trio):
    strange = {n: torch.randn(t.shape) if t.is_floating_point() else t for n, t in trio[0].items()}
    written = write_models(tmp_path, [trio[0], strange])
    with pytest.raises(CheckpointError, match="no common ancestor"):
        merge_models(written[0], written[1:], preset("ties"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge_models(written[0], written[1:], preset("ties", "merging.unrelated=true"), tmp_path / "out")


def test_values_too_large_for_the_base_are_refused_and_leave_nothing(tmp_path, trio):
    halves = [{n: t.half() if t.is_floating_point() else t for n, t in each.items()} for each in trio]
    written = write_models(tmp_path, halves)
    with pytest.raises(CheckpointError, match="too large for float16"):
        merge_models(written[0], written[1:], preset("task_arithmetic", "merging.scale=1e9"), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_a_rounded_result_is_rounded_once(tmp_path):
    base, tiny = {"w": torch.ones(1, 1).bfloat16()}, {"w": torch.tensor([[1.0 + 2**-8 + 2**-20]])}
    assert merged(tmp_path, base, [tiny], preset("task_arithmetic"))["w"].item() == 1 + 2**-7
