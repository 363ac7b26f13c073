"""With a teacher, and with the losses of a mixture's routers, two processes train as one process does."""

import pytest

from grow.common import metric_names as names

pytestmark = pytest.mark.slow

STEPS = (
    *("trainer.tokens_per_step=256", "trainer.max_tokens=2048", "trainer.log_every_steps=1", "optimizer.lr=0.003"),
    *("trainer.val_every_tokens=2048", "checkpoint.every_tokens=null"),
)
MIXTURE = ("model=tiny_mixtral", "model.kv_heads=2", "experts.balance=1")


@pytest.fixture(scope="module")
def one(train, rows, tmp_path_factory):
    """Return a function (*overrides) that returns the rows of one process with micro-batches of 2, trained once."""
    done = {}

    def of(*more):
        if more not in done:
            run = tmp_path_factory.mktemp("one") / "run"
            done[more] = rows(train(run, 1, *STEPS, *more, "trainer.micro_batch=2"))
        return done[more]

    return of


@pytest.fixture(scope="module")
def teacher(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("teacher") / "run", 1)


def column(rows, name):
    return [row[name] for row in rows if name in row]


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
def test_two_taught_processes_follow_one_step_by_step(one, train, rows, teacher, tmp_path, strategy):
    taught = ("objective=knowledge_inheritance", f"objective.teacher={teacher}", "objective.alpha=0.5", "seed=3")
    two = rows(train(tmp_path / "run", 2, *STEPS, *taught, f"strategy={strategy}", "trainer.micro_batch=1"))
    for name in (names.TRAIN_LOSS, names.INHERIT_KL, names.INHERIT_LOSS):
        assert column(two, name) and column(two, name) == pytest.approx(column(one(*taught), name), abs=1e-4)
    assert two[-1]["flops"] == one(*taught)[-1]["flops"]


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_balance_over_the_step_is_that_of_one_process_with_all_of_its_tokens(one, train, rows, tmp_path, strategy):
    two = rows(train(tmp_path / "run", 2, *STEPS, *MIXTURE, f"strategy={strategy}", "trainer.micro_batch=1"))
    for name in (names.TRAIN_LOSS, names.GRAD_NORM, names.EXPERTS_BALANCE_LOSS, names.EXPERTS_LOAD_MAX):
        assert column(two, name) and column(two, name) == pytest.approx(column(one(*MIXTURE), name), rel=1e-3)


def test_balance_of_each_micro_batch_depends_on_their_division(one, train, rows, tmp_path):
    apart = (*MIXTURE, "experts.balance_over=micro_batch")
    two = rows(train(tmp_path / "run", 2, *STEPS, *apart, "strategy=ddp", "trainer.micro_batch=1"))
    ours, theirs = (column(each, names.EXPERTS_BALANCE_LOSS) for each in (two, one(*apart)))
    assert ours != pytest.approx(theirs, rel=1e-3)
