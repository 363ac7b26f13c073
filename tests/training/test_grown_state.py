"""A grown run that keeps its source's optimizer: it takes the source's own steps; from any ranks' checkpoint."""

import json
import shutil

import pytest

from grow.common import metric_names as names
from grow.common.errors import GrowthError
from grow.common.provenance import read_lineage
from grow.training.checkpoints.checkpoint_reader import OPTIMIZER_FILES, SavedFragments
from tests.training.tiny import cut_in_two

# What commutes with growth: see grow/growth/moments.py. A clip and AdamW's eps do not.
COMMUTES = (
    *("optimizer.max_grad_norm=0", "optimizer.eps=1e-30", "optimizer.divide_grown_lr=true", "optimizer.lr=0.003"),
    *("trainer.log_every_steps=1", "trainer.max_tokens=640", "schedule.warmup_tokens=0"),
)
TWICE = ("model.embed=32", "model.heads=4", "model.kv_heads=4", "model.ffn=48", "growth=hyperclone")


@pytest.fixture(scope="module")
def checkpoint(trained_once):
    """A run's checkpoint after 6 steps."""
    return trained_once("checkpoint.keep_last=9") / "checkpoints" / "step-00000006"


@pytest.fixture
def losses(train, tmp_path, checkpoint, rows):
    """(name, *overrides) -> training losses of a run that starts from the checkpoint."""

    def of(name, *more):
        run = train(tmp_path / name, *COMMUTES, f"growth.source={checkpoint}", *more)
        return [row[names.TRAIN_LOSS] for row in rows(run) if names.TRAIN_LOSS in row]

    return of


def test_a_grown_model_with_its_sources_moments_takes_the_steps_that_the_source_would(losses):
    small = losses("small", "growth=identity", "growth.optimizer_state=exact")
    grown = losses("grown", *TWICE, "growth.optimizer_state=exact")
    assert grown == pytest.approx(small, abs=2e-4)
    fresh = losses("fresh", *TWICE, "growth.optimizer_state=reset")
    assert max(abs(a - b) for a, b in zip(fresh, small, strict=True)) > 0.002


def test_unit_by_unit_the_asymmetric_state_is_the_sources_or_new(losses, capsys):
    asymmetric = losses("asymmetric", *TWICE, "growth.optimizer_state=asymmetric")
    assert "its optimizer's state after 6 steps (asymmetric)" in capsys.readouterr().out
    assert asymmetric != losses("exact", *TWICE, "growth.optimizer_state=exact")


def test_a_checkpoint_in_pieces_grows_to_the_same_state_as_a_whole_one(losses, checkpoint, tmp_path):
    pieces = shutil.copytree(checkpoint.parents[1], tmp_path / "pieces") / "checkpoints" / checkpoint.name
    cut_in_two(pieces, OPTIMIZER_FILES)
    more = (*TWICE, "growth.optimizer_state=exact")
    assert losses("from_pieces", *more, f"growth.source={pieces}") == losses("from_whole", *more)


def test_a_grown_run_that_is_killed_goes_on_with_the_state_it_had(train, tmp_path, checkpoint):
    more = (*COMMUTES, *TWICE, f"growth.source={checkpoint}", "growth.optimizer_state=exact")
    run = train(tmp_path / "run", *more, "checkpoint.every_tokens=128", "checkpoint.keep_last=9")
    assert not (run / "grown").exists()
    state = json.loads((run / "checkpoints" / "step-00000001" / "state.json").read_text())
    assert state["updates"] == 7
    moments = SavedFragments(run / "checkpoints" / "step-00000005", OPTIMIZER_FILES)
    expected = moments.whole("model.norm.weight/exp_avg")
    shutil.rmtree(run / "model")
    for step in (2, 3, 4, 5):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08}")
    train(run, *more, "checkpoint.every_tokens=128", "checkpoint.keep_last=9")
    again = SavedFragments(run / "checkpoints" / "step-00000005", OPTIMIZER_FILES).whole("model.norm.weight/exp_avg")
    assert again.equal(expected)


def test_what_a_checkpoint_had_cost_is_in_the_grown_runs_lineage(train, tmp_path, checkpoint):
    run = train(tmp_path / "run", *COMMUTES, *TWICE, f"growth.source={checkpoint}")
    assert read_lineage(run / "model").tokens == 768 + 640


def test_a_source_without_optimizer_state_is_refused_by_name(train, tmp_path, checkpoint):
    model = checkpoint.parents[1] / "model"
    with pytest.raises(GrowthError, match=r"growth\.optimizer_state=exact needs .* holds none"):
        train(tmp_path / "run", *COMMUTES, *TWICE, f"growth.source={model}", "growth.optimizer_state=exact")
