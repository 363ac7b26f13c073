"""Every strategy on two processes trains as one process does: losses and gradient norms, step by step."""

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from grow.common import metric_names as names

pytestmark = pytest.mark.slow

# 16 micro-batches a rank and step, and a clipping limit that every step meets
STEPS = (
    *("trainer.micro_batch=1", "trainer.tokens_per_step=512", "trainer.log_every_steps=1"),
    *("trainer.val_every_tokens=3072", "checkpoint.every_tokens=null", "optimizer.max_grad_norm=0.2"),
    "optimizer.lr=0.003",
)
TWICE = ("model.embed=32", "model.heads=4", "model.kv_heads=4", "model.ffn=48", "growth=hyperclone_noisy")


@pytest.fixture(scope="module")
def source(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("source") / "run", 1)


@pytest.fixture(scope="module")
def steps(train, rows, source, tmp_path_factory):
    """Return a function (strategy, processes, precision, steps) that returns the rows of a grown run, trained once."""
    done = {}

    def of(strategy, processes, precision, count):
        key = strategy, processes, precision, count
        if key not in done:
            directory = tmp_path_factory.mktemp(strategy)
            more = (*STEPS, *TWICE, f"growth.source={source}", f"strategy={strategy}", f"trainer.precision={precision}")
            more += (f"trainer.max_tokens={512 * count}",)
            micro_batch = ("trainer.micro_batch=2",) if processes == 1 else ()  # 16 to accumulate on every rank
            done[key] = rows(train(directory / "run", processes, *more, *micro_batch))
        return done[key]

    return of


def column(rows, name):
    return [row[name] for row in rows if name in row]


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_two_processes_in_float32_follow_one_process_step_by_step(steps, strategy):
    one, two = steps("single", 1, "fp32", 12), steps(strategy, 2, "fp32", 12)
    assert len(column(two, names.TRAIN_LOSS)) == 12
    assert column(two, names.TRAIN_LOSS) == pytest.approx(column(one, names.TRAIN_LOSS), abs=1e-4)
    # Adam hides gradients that are too small by a factor; the norm, and what clipping makes of it, do not.
    assert column(two, names.GRAD_NORM) == pytest.approx(column(one, names.GRAD_NORM), rel=1e-3)
    assert min(column(one, names.GRAD_NORM)) > 0.2
    assert column(two, names.VAL_LOSS) == pytest.approx(column(one, names.VAL_LOSS), abs=1e-4)


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_two_processes_in_bfloat16_follow_one_process_within_its_rounding_for_50_steps(steps, strategy):
    one, two = steps("single", 1, "bf16", 50), steps(strategy, 2, "bf16", 50)
    assert len(column(two, names.TRAIN_LOSS)) == 50
    assert column(two, names.TRAIN_LOSS) == pytest.approx(column(one, names.TRAIN_LOSS), abs=0.01)
    assert column(two, names.TRAIN_LOSS)[:5] != column(steps(strategy, 2, "fp32", 12), names.TRAIN_LOSS)[:5]


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_bfloat16_weights_with_float32_masters_follow_within_rounding(steps, strategy):
    wide, narrow = steps("single", 1, "fp32", 12), steps(strategy, 2, "bf16_weights", 12)
    assert column(narrow, names.TRAIN_LOSS) == pytest.approx(column(wide, names.TRAIN_LOSS), abs=0.03)


def test_masters_start_from_the_exact_weights_and_are_what_is_exported(train, tmp_path):
    """One step at a learning rate near zero must export the float32 weights, not their bfloat16 copies."""
    more = ("trainer.max_tokens=128", "trainer.micro_batch=1", "optimizer.lr=1e-12", "checkpoint.every_tokens=128")
    wide = train(tmp_path / "wide", 1, *more)
    narrow = train(tmp_path / "narrow", 2, *more, "strategy=zero2", "trainer.precision=bf16_weights")
    for weights in ("model", "checkpoints/step-00000001"):
        found = load_file(narrow / weights / "model.safetensors")
        for name, tensor in load_file(wide / "model" / "model.safetensors").items():
            assert_close(found[name], tensor, rtol=0, atol=1e-8, msg=f"{weights} {name}")


def test_a_large_head_is_gathered_for_the_loss_under_zero3(train, rows, tmp_path):
    """DeepSpeed keeps small weights whole; this head is above its limit of 100,000."""
    more = (
        "model.embed=128",
        "model.head_dim=64",
        "model.vocab_size=1024",
        "optimizer.lr=5e-4",
        "trainer.log_every_steps=1",
    )
    one, two = (
        rows(train(tmp_path / strategy, processes, f"strategy={strategy}", "trainer.max_tokens=640", *more))
        for strategy, processes in (("single", 1), ("zero3", 2))
    )
    assert column(two, names.TRAIN_LOSS) == pytest.approx(column(one, names.TRAIN_LOSS), abs=1e-4)


def test_a_sharding_strategy_on_one_process_trains_the_same(train, rows, tmp_path):
    more = ("trainer.max_tokens=1280", "trainer.log_every_steps=1")
    plain = train(tmp_path / "plain", 1, *more, "strategy=zero2")
    sharded = train(tmp_path / "sharded", 1, *more, "strategy=zero2", "strategy.insist=true")
    log = (tmp_path / "log").read_text()
    assert "zero2 has nobody to share with: the plain strategy is used" in log
    assert column(rows(sharded), names.TRAIN_LOSS) == pytest.approx(column(rows(plain), names.TRAIN_LOSS), abs=1e-5)
    for run, files in ((plain, 1), (sharded, 1)):
        assert len(list(run.glob("checkpoints/step-00000010/optimizer-*"))) == files


def test_an_engine_that_was_set_up_otherwise_stops_the_run(launch, tmp_path, monkeypatch):
    from benchmarks.forks import wait
    from grow.training.engine import zero

    original = zero.build_zero

    def without_clipping(*arguments):
        strategy = original(*arguments)
        strategy.config["gradient_clipping"] = 0.0  # a value here wins over the trainer's, without a word
        return strategy

    monkeypatch.setattr("grow.training.engine.strategy.build_zero", without_clipping)
    codes = wait(launch(tmp_path / "run", 2, "strategy=zero2"))
    assert set(codes) == {2}
    log = (tmp_path / "log").read_text()
    assert "optimizer.max_grad_norm: asked for 1.0, the engine has 0.0" in log
