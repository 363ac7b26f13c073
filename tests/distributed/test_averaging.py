"""The average that a run keeps is the mean of its checkpoints bit for bit, however the weights are sharded."""

import json
import shutil
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from grow.common import metric_names as names
from grow.common.errors import CheckpointError
from grow.common.records import read_json
from grow.training.checkpoints.fragments import kept_in_shards
from grow.training.checkpoints.run_average import RunAverage
from grow.training.run_directory import RunDirectory

pytestmark = pytest.mark.slow

# 30 steps; a snapshot and a checkpoint every 4 of them, so that the checkpoints are what the window saw
LAWA = ("averaging=lawa", "averaging.k=3", "averaging.every_steps=4", "averaging.start_tokens=0")
RUN = (
    *("trainer.max_tokens=3840", "trainer.micro_batch=1", "trainer.log_every_steps=1", "trainer.val_every_tokens=640"),
    *("checkpoint.every_tokens=512", "checkpoint.keep_last=99"),
)
WAYS = [
    ("single", 1, "fp32"),
    ("ddp", 2, "fp32"),
    ("zero1", 2, "fp32"),
    ("zero2", 2, "bf16_weights"),
    ("zero3", 2, "fp32"),
]
WAYS += [("fsdp2", 2, "bf16")]


def weights(directory):
    return load_file(directory / "model.safetensors")


def offline(run, steps):
    """Return the mean of a run's checkpoints, summed in float64 and rounded once."""
    loaded = [weights(run / "checkpoints" / f"step-{step:08}") for step in steps]
    return {name: (sum(each[name].double() for each in loaded) / len(loaded)).float() for name in loaded[0]}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.fixture(scope="module")
def watch():
    """Return a function (directory) that makes every rank with whole weights record them while the average is in them.

    A rank fails if its weights are not the same after the average as before.
    """
    place, original = [], RunAverage.in_model

    def weights_now(average):
        whole = kept_in_shards(average._model) is None
        return {n: p.detach().clone() for n, p in average._model.named_parameters()} if whole else {}

    @contextmanager
    def in_model(self):
        before = weights_now(self)
        with original(self):
            rank = dist.get_rank() if dist.is_initialized() else 0
            torch.save(weights_now(self), place[-1] / f"inside-{rank}.pt")
            yield
        assert_equal(weights_now(self), before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunAverage, "in_model", in_model)
        yield place.append


@pytest.fixture(scope="module")
def averaged(train, watch, tmp_path_factory):
    """Return a function (strategy, processes, precision) that returns a finished run with an average, trained once."""
    done = {}

    def of(strategy, processes, precision):
        key = strategy, processes, precision
        if key not in done:
            more = (*RUN, *LAWA, f"strategy={strategy}", f"trainer.precision={precision}")
            directory = tmp_path_factory.mktemp(strategy)
            watch(directory)
            done[key] = train(directory / "run", processes, *more)
        return done[key]

    return of


@pytest.mark.parametrize(("strategy", "processes", "precision"), WAYS)
def test_the_average_is_the_mean_of_the_checkpoints_bit_for_bit(averaged, strategy, processes, precision):
    run = averaged(strategy, processes, precision)
    assert_equal(weights(run / "average"), offline(run, (20, 24, 28)))
    live = weights(run / "model")
    assert {tensor.dtype for tensor in live.values()} == {torch.float32}
    assert any(not torch.equal(tensor, live[name]) for name, tensor in weights(run / "average").items())


@pytest.mark.parametrize(("strategy", "processes", "precision"), WAYS[:4])
def test_while_the_average_is_in_the_model_every_ranks_weights_are_its_bits(averaged, strategy, processes, precision):
    run = averaged(strategy, processes, precision)
    dtype = torch.bfloat16 if precision == "bf16_weights" else torch.float32
    expected = {name: tensor.to(dtype) for name, tensor in weights(run / "average").items()}
    for rank in range(processes):
        assert_equal(torch.load(run.parent / f"inside-{rank}.pt"), expected)


@pytest.mark.parametrize(("strategy", "processes", "precision"), [WAYS[0], WAYS[3], WAYS[4], WAYS[5]])
def test_training_is_the_same_to_the_bit_with_and_without(
    train, averaged, rows, tmp_path, strategy, processes, precision
):
    """At six validations the average is swapped into the live weights and out again."""
    with_average = averaged(strategy, processes, precision)
    without = train(tmp_path / "run", processes, *RUN, f"strategy={strategy}", f"trainer.precision={precision}")
    assert_equal(weights(without / "model"), weights(with_average / "model"))
    digests = [read_json(run / "checkpoints" / "step-00000030" / "COMPLETE.json") for run in (without, with_average)]
    ours = [name for name in digests[0] if name.startswith(("model", "optimizer", "rng"))]
    assert len(ours) == 2 + processes
    assert [digests[0][name] for name in ours] == [digests[1][name] for name in ours]
    losses = [[row[names.VAL_LOSS] for row in rows(run) if names.VAL_LOSS in row] for run in (with_average, without)]
    assert losses[0] == losses[1]
    assert [row["step"] for row in rows(with_average) if names.VAL_AVG_LOSS in row] == [15, 20, 25, 30]
    assert not (without / "average").exists()


def test_the_averages_loss_is_the_loss_of_the_exported_average(averaged, rows):
    from grow.data.data_module import TokenDataModule
    from grow.data.shards import TokenShards
    from grow.families.build import load_model

    run = averaged("zero3", 2, "fp32")
    data = json.loads((run / "run.json").read_text())["data"]
    module = TokenDataModule(TokenShards.open(data["path"]), sequence_length=16, micro_batch=10, seed=0, val_tokens=160)
    (batch,) = module.val_dataloader()
    model = load_model(run / "average").eval()
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten())
    assert rows(run)[-1][names.VAL_AVG_LOSS] == pytest.approx(loss.item(), abs=1e-5)
    assert rows(run)[-1][names.VAL_LOSS] != pytest.approx(loss.item(), abs=1e-3)


@pytest.mark.parametrize(
    ("strategy", "processes", "storage"),
    [("single", 1, "host"), ("single", 1, "disk"), ("zero2", 2, "disk"), ("ddp", 2, "host")],
)
def test_a_run_killed_inside_the_window_ends_with_the_same_average(
    train, stopped_at, averaged, tmp_path, strategy, processes, storage
):
    more = (*RUN, *LAWA, f"strategy={strategy}", f"averaging.storage={storage}")
    run = train(stopped_at(tmp_path / "run", processes, 128 * 22, *more), processes, *more)
    quiet = averaged(strategy, processes, "fp32")
    assert_equal(weights(run / "average"), weights(quiet / "average"))


def test_the_average_survives_a_change_of_ranks_in_mid_window(train, stopped_at, tmp_path):
    run = stopped_at(tmp_path / "run", 2, 128 * 22, *RUN, *LAWA, "strategy=zero2")
    for path in sorted((run / "checkpoints").glob("step-*"))[5:]:
        shutil.rmtree(path)  # so that the window of 3 is filled by both numbers of ranks
    train(run, 1, *RUN, *LAWA, "strategy=zero2")
    assert (run / "checkpoints" / "step-00000020" / "average-00001-of-00002.safetensors").exists()
    assert_equal(weights(run / "average"), offline(run, (20, 24, 28)))


def test_a_lost_export_of_the_average_is_written_again(train, averaged, tmp_path):
    run = shutil.copytree(averaged("ddp", 2, "fp32"), tmp_path / "run")
    before = weights(run / "average")
    shutil.rmtree(run / "average")
    shutil.rmtree(run / "model")
    train(run, 1, *RUN, *LAWA, "strategy=ddp", "trainer.precision=fp32")
    assert_equal(weights(run / "average"), before)


def test_another_kind_of_average_is_refused(launch, averaged, tmp_path):
    from benchmarks.forks import wait

    run = shutil.copytree(averaged("single", 1, "fp32"), tmp_path / "run")
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints" / "step-00000030")
    ema = ("averaging=ema", "averaging.k=3", "averaging.every_steps=4", "averaging.start_tokens=0")
    assert wait(launch(run, 1, *RUN, *ema, "resume=changed")) == [CheckpointError.exit_code]
    assert "found one of lawa" in (tmp_path / "log").read_text()
    assert not RunDirectory(run).is_finished
