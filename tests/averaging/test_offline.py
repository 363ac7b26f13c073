"""Checkpoints on disk, of any kind of model: averaged to the bit of the core's mean, or refused by tensor and file."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from grow.averaging.average import new_average
from grow.averaging.offline import average_checkpoints
from grow.averaging.settings import AverageCheckpointsConfig, AveragingSettings
from grow.averaging.sources import find_sources
from grow.cli.config import compose
from grow.common.errors import CheckpointError, ConfigError
from grow.families.build import load_model
from grow.families.registry import stock_config
from grow.families.tensor_file import TensorInfo
from grow.families.weights import INDEX_FILE, write_weights
from tests.averaging.conftest import make_plan, reference_mean, same, walk


def settings(kind="lawa", **keys):
    if kind in ("lawa", "wsm", "ema") and "k" not in keys:
        keys["k"] = 3
    return AveragingSettings(name=kind, kind=kind, **keys, **({"curve": "minus_sqrt"} if kind == "wsm" else {}))


def files(directory, path, suffix="safetensors", first=1):
    """One file a snapshot, named by its step without padding, so that the order of names is not the order of steps."""
    directory.mkdir(exist_ok=True)
    made = []
    for step, weights in enumerate(path, first):
        made.append(str(directory / f"model_step_{step}.{suffix}"))
        save_file(weights, made[-1]) if suffix == "safetensors" else torch.save(weights, made[-1])
    return made


def averaged(tmp_path, checkpoints, how=None, name="out"):
    record = average_checkpoints(checkpoints, how or settings(), tmp_path / name)
    return load_file(tmp_path / name / "model.safetensors"), record


@pytest.mark.parametrize("kind", ["lawa", "ema", "swa", "wsm"])
def test_the_mean_of_files_is_the_mean_of_the_same_snapshots_in_a_run(tmp_path, kind):
    path, online = walk(12), new_average(make_plan(kind, k=3) if kind != "swa" else make_plan(kind))
    for step, weights in enumerate(path, 1):
        online.push(step, weights)
    mean, _ = averaged(tmp_path, files(tmp_path / "in", path), settings(kind))
    assert same(mean, online.mean())


def test_files_are_ordered_by_step_and_neither_by_name_nor_as_given(tmp_path):
    path = walk(12)
    made = files(tmp_path / "in", path)
    assert sorted(made) != made
    for name, order in (("sorted", sorted(made)), ("reversed", made[::-1])):
        mean, record = averaged(tmp_path, order, name=name)
        assert [source["step"] for source in record.sources] == [10, 11, 12]
        assert same(mean, reference_mean(path[9:]))


def test_names_that_tell_no_step_leave_the_order_as_it_was_given(tmp_path):
    for name, value in (("late", 1.0), ("early", 2.0), ("middle", 6.0)):
        save_file(
            {"weight": torch.tensor([value]), "count": torch.tensor(int(value))}, tmp_path / f"{name}.safetensors"
        )
    given = [str(tmp_path / f"{name}.safetensors") for name in ("early", "middle", "late")]
    mean, _ = averaged(tmp_path, given, settings(k=2))
    assert mean["weight"].item() == 3.5 and mean["count"].item() == 1


def test_state_dicts_of_any_model_are_averaged_as_they_are(tmp_path):
    """An image classifier with batch norm: its counter is a whole number, its tied layers two names of one tensor."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10), nn.Linear(10, 10))
    model.append(nn.Linear(10, 10))
    model[5].weight = model[4].weight
    path = []
    for step in range(3):
        model(torch.randn(2, 1, 8, 8))
        with torch.no_grad():
            model[4].weight += step
        path.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    nested = [{"state_dict": weights} for weights in path]
    mean, record = averaged(tmp_path, files(tmp_path / "in", nested, suffix="pt"))
    assert record.copied == ["1.num_batches_tracked"] and mean["1.num_batches_tracked"].item() == 3
    floating = [{n: t for n, t in weights.items() if t.is_floating_point()} for weights in path]
    assert same({name: mean[name] for name in floating[0]}, reference_mean(floating))
    assert torch.equal(mean["4.weight"], mean["5.weight"])
    model.load_state_dict(mean)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_half_and_is_rounded_once(tmp_path, dtype):
    generator = torch.Generator().manual_seed(0)
    path = [{"weight": torch.randn(200_000, generator=generator).to(dtype)} for _ in range(3)]
    mean, _ = averaged(tmp_path, files(tmp_path / "in", path))
    exact = torch.stack([w["weight"].double() for w in path]).sum(0) / 3
    found = mean["weight"]
    assert found.dtype == dtype
    next_up, next_down = (torch.nextafter(found, torch.full_like(found, way)) for way in (9.0, -9.0))
    error = (found.double() - exact).abs()
    assert (error <= (next_up.double() - exact).abs()).all() and (error <= (next_down.double() - exact).abs()).all()


def test_rounding_through_float32_would_have_been_rounding_twice():
    from grow.averaging.arithmetic import rounded

    above_the_tie = torch.tensor([1 + 2.0**-8 + 2.0**-40, -1 - 2.0**-8 - 2.0**-40], dtype=torch.float64)
    assert rounded(above_the_tie, torch.bfloat16).tolist() == [1 + 2.0**-7, -1 - 2.0**-7]
    assert above_the_tie.bfloat16().tolist() == [1, -1]
    assert rounded(torch.tensor([0.0, -0.0, 1.5]).double(), torch.bfloat16).tolist() == [0, 0, 1.5]


def test_wrappers_leave_no_trace_in_the_names(tmp_path):
    path = walk(2)
    parallel = {f"module._orig_mod.{name}": tensor for name, tensor in path[1].items()}
    mean, _ = averaged(tmp_path, files(tmp_path / "in", [path[0], parallel]), settings(k=2))
    assert same(mean, reference_mean(path))


def test_a_directory_of_another_library_keeps_its_file_name(tmp_path):
    path, unets = walk(2), []
    for step, weights in enumerate(path, 1):
        unets.append(tmp_path / f"checkpoint-{step}")
        unets[-1].mkdir()
        (unets[-1] / "config.json").write_text('{"_class_name": "UNet2DModel"}')
        save_file(weights, unets[-1] / "diffusion_pytorch_model.safetensors")
    average_checkpoints([str(unet) for unet in unets], settings(k=2), tmp_path / "out")
    mean = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
    assert same(mean, reference_mean(path))
    assert (tmp_path / "out" / "config.json").read_text() == '{"_class_name": "UNet2DModel"}'


@pytest.fixture
def stock(tmp_path):
    """Two stock model directories, one of them sharded."""
    config = stock_config(compose(["model=tiny", "model.layers=1", "model.embed=64", "data.sequence_length=64"]).model)
    directories, weights = [], []
    for step in (10, 20):
        directory = tmp_path / f"step-{step}"
        directory.mkdir()
        config.save_pretrained(directory)
        (directory / "tokenizer.json").write_text(f"tokenizer at {step}")
        torch.manual_seed(step)
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_config(config)
        weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        infos = [TensorInfo(name=n, shape=tuple(t.shape), dtype=t.dtype) for n, t in weights[-1].items()]
        write_weights(directory, infos, weights[-1].values(), max_shard_bytes=10**9 if step == 10 else 500_000)
        directories.append(str(directory))
    assert (tmp_path / "step-20" / INDEX_FILE).exists()
    return directories, weights


def test_stock_directories_become_a_stock_directory(tmp_path, stock):
    directories, weights = stock
    config = tmp_path / "step-20" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoConfig": "code.Config"}}))
    record = average_checkpoints(directories, settings(k=2), tmp_path / "out")
    assert same(dict(load_model(tmp_path / "out").state_dict()), reference_mean(weights))
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "tokenizer at 20"
    assert "auto_map" not in (tmp_path / "out" / "config.json").read_text()  # it names code that is not copied
    written = json.loads((tmp_path / "out" / "average.json").read_text())
    assert [source["share"] for source in written["sources"]] == [0.5, 0.5]
    assert [source["source"] for source in written["sources"]] == directories
    assert len({source["digest"] for source in written["sources"]}) == 2
    assert written["averaging"]["kind"] == "lawa" and written["averaged"] == len(weights[0]) == record.averaged


def test_hub_revisions_are_fetched_by_name_and_revision(tmp_path, stock, monkeypatch):
    directories, weights = stock
    at = {"step1000": directories[1], "step24000": directories[0]}
    asked = []

    def fake(name, revision, allow_patterns):
        asked.append((name, revision))
        return at[revision]

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
    given = ["EleutherAI/pythia-1b@step24000", "EleutherAI/pythia-1b@step1000"]
    mean, record = averaged(tmp_path, given, settings(k=2))
    assert set(asked) == {("EleutherAI/pythia-1b", "step24000"), ("EleutherAI/pythia-1b", "step1000")}
    assert [source["step"] for source in record.sources] == [1000, 24000]
    assert same(mean, reference_mean(weights))


def test_a_hub_that_does_not_answer_is_one_paragraph(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(CheckpointError, match=r"no route to host.*download it elsewhere and give the directory"):
        find_sources(["EleutherAI/pythia-1b@step24000"])


def test_a_spacing_takes_its_multiples_and_needs_enough_of_them(tmp_path):
    path = walk(12)
    made = files(tmp_path / "in", path)
    mean, record = averaged(tmp_path, made, settings(k=3, every_steps=4))
    assert [source["step"] for source in record.sources] == [4, 8, 12]
    assert same(mean, reference_mean([path[3], path[7], path[11]]))
    with pytest.raises(ConfigError, match=r"at least 3 checkpoints at multiples of averaging\.every_steps=5, found 2"):
        averaged(tmp_path, made, settings(k=3, every_steps=5), name="few")
    two, _ = averaged(tmp_path, made, settings(k=3, every_steps=5, min_snapshots=2), name="two")
    assert same(two, reference_mean([path[4], path[9]]))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda w: w | {"bias": torch.zeros(8)},
            r"tensor bias: \(7,\) float32 in .*step_2.*, \(8,\) float32 in .*step_1",
        ),
        (lambda w: w | {"bias": w["bias"].bfloat16()}, r"tensor bias: \(7,\) float32 in .*, \(7,\) bfloat16 in"),
        (lambda w: {"bias": w["bias"]}, r"tensor matrix: \(30, 50\) float32 in .*step_2.*, missing in .*step_1"),
        (lambda w: w | {"more": torch.zeros(1)}, r"tensor more: missing in .*step_2.*, \(1,\) float32 in .*step_1"),
        (lambda w: w | {"bias": torch.full((7,), float("nan"))}, r"step_1.*: tensor bias holds values that are not"),
    ],
    ids=["shape", "dtype", "missing", "more", "nan"],
)
def test_checkpoints_that_do_not_match_are_refused_and_nothing_is_left_behind(tmp_path, change, match):
    path = walk(2)
    made = files(tmp_path / "in", [change(path[0]), path[1]])
    with pytest.raises(CheckpointError, match=match):
        averaged(tmp_path, made, settings(k=2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_the_same_checkpoint_twice_is_refused(tmp_path):
    made = files(tmp_path / "in", walk(2))
    with pytest.raises(CheckpointError, match="the same checkpoint or step twice"):
        averaged(tmp_path, [*made, made[0]])
    other = files(tmp_path / "other", walk(2, seed=1))
    with pytest.raises(CheckpointError, match="the same checkpoint or step twice"):
        averaged(tmp_path, [*made, *other])


def test_a_damaged_file_is_refused(tmp_path):
    made = files(tmp_path / "in", walk(2))
    Path(made[0]).write_bytes(Path(made[0]).read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"step_1.*damaged or truncated"):
        averaged(tmp_path, made, settings(k=2))


class Payload:
    """What a pickle could carry; if it were ever loaded, a file would say so."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_that_would_run_code_is_refused_unread(tmp_path):
    (tmp_path / "in").mkdir()
    torch.save({"weight": torch.ones(1), "more": Payload(tmp_path / "ran")}, tmp_path / "in" / "step_1.pt")
    with pytest.raises(CheckpointError, match="holds objects, which Grow does not load"):
        find_sources([str(tmp_path / "in" / "step_1.pt")])
    assert not (tmp_path / "ran").exists()


def test_pickles_in_a_directory_are_not_looked_at(tmp_path):
    torch.save(walk(1)[0], tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="only pickled"):
        find_sources([str(tmp_path)])


def test_what_is_no_state_dict_says_what_it_found(tmp_path):
    torch.save({"epoch": 3, "weights": [torch.ones(1)]}, tmp_path / "step_1.pt")
    with pytest.raises(CheckpointError, match=r"expected a state dict.*found \['epoch', 'weights'\]"):
        find_sources([str(tmp_path / "step_1.pt")])


def test_an_output_that_exists_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="already exists"):
        averaged(tmp_path, files(tmp_path / "in", walk(3)))


def test_the_command_line_names_what_it_needs():
    config = compose(
        ["checkpoints=[a,b@step10]", "averaging=lawa", "averaging.k=2", "output=c"],
        "average_checkpoints",
        AverageCheckpointsConfig,
    )
    assert config.checkpoints == ["a", "b@step10"] and config.averaging.k == 2
    with pytest.raises(ConfigError, match="checkpoints="):
        compose(["checkpoints=[]", "output=c"], "average_checkpoints", AverageCheckpointsConfig)


def test_the_script_says_what_it_averaged(tmp_path, capsys):
    from scripts.average_checkpoints import main

    made = files(tmp_path / "in", walk(3))
    main.__wrapped__(
        AverageCheckpointsConfig(checkpoints=made, output=str(tmp_path / "out"), averaging=settings("wsm"))
    )
    out = capsys.readouterr().out
    assert "0.5774" in out and "averaged   2 tensors of 3 checkpoints by wsm" in out
