"""Knowledge inheritance: the mixed loss is its formula, and the teacher changes nothing but the loss."""

import shutil

import pytest
import torch
from torch.nn import functional

from grow.common.errors import ConfigError
from grow.training.settings import ObjectiveSettings
from grow.training.step.inheritance import InheritanceLoss, alpha_at
from grow.training.step.objective import NextTokenLoss
from grow.training.step.teacher import Teaching

ROWS, VOCAB = 37, 50


def inputs(scale=1.0):
    torch.manual_seed(0)
    hidden = torch.randn(ROWS, 8, dtype=torch.float64).requires_grad_()
    head = (scale * torch.randn(VOCAB, 8, dtype=torch.float64)).requires_grad_()
    taught, teacher_head = torch.randn(ROWS, 5, dtype=torch.float64), torch.randn(VOCAB, 5, dtype=torch.float64)
    return hidden, head, torch.randint(VOCAB, (ROWS,)), taught, teacher_head


def formula(hidden, head, targets, taught, teacher_head, alpha, tau):
    logits, teacher = hidden @ head.T, taught @ teacher_head.T
    q, log_p = torch.softmax(teacher / tau, -1), torch.log_softmax(logits / tau, -1)
    divergence = (q * (q.log() - log_p)).sum(-1).mean()
    return (1 - alpha) * functional.cross_entropy(logits, targets) + alpha * tau**2 * divergence


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("chunk_rows", [0, 1, 8, 37, 100])
def test_loss_and_gradients_equal_the_formula_for_any_chunk(chunk_rows, alpha, tau):
    given = inputs()
    expected = formula(*given, alpha, tau)
    wanted = torch.autograd.grad(expected, given[:2])
    found = InheritanceLoss(temperature=tau, chunk_rows=chunk_rows)(*given, alpha)
    torch.testing.assert_close(found.mixed, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(torch.autograd.grad(found.mixed, given[:2]), wanted, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(found.cross_entropy, NextTokenLoss()(*given[:3]).detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("chunk_rows", [0, 8])
def test_capped_logits_of_both_models_have_the_gradients_of_the_capped_formula(chunk_rows):
    hidden, head, targets, taught, teacher_head = inputs()
    one, other = torch.eye(VOCAB, dtype=torch.float64), torch.eye(VOCAB, dtype=torch.float64)
    capped, teacher = 2 * torch.tanh(hidden @ head.T / 2), torch.tanh(taught @ teacher_head.T)
    wanted = torch.autograd.grad(formula(capped, one, targets, teacher, other, 0.5, 2.0), (hidden, head))
    loss = InheritanceLoss(temperature=2.0, chunk_rows=chunk_rows, cap=2.0, teacher_cap=1.0)
    found = torch.autograd.grad(loss(hidden, head, targets, taught, teacher_head, 0.5).mixed, (hidden, head))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)


def test_a_gradient_from_above_scales_both_gradients():
    given = inputs()
    whole, half = (
        torch.autograd.grad(share * InheritanceLoss(chunk_rows=8)(*given, 0.5).mixed, given[:2]) for share in (1, 0.5)
    )
    torch.testing.assert_close(half, tuple(0.5 * each for each in whole))


def test_exchanging_student_and_teacher_in_the_divergence_gives_another_loss():
    hidden, head, targets, *_ = inputs()
    taught, teacher_head = torch.randn(ROWS, 8, dtype=torch.float64), 3 * torch.randn(VOCAB, 8, dtype=torch.float64)
    ours = InheritanceLoss()(hidden, head, targets, taught, teacher_head, 1.0).mixed
    exchanged = InheritanceLoss()(taught.requires_grad_(), teacher_head, targets, hidden.detach(), head.detach(), 1.0)
    assert abs(ours - exchanged.mixed) > 0.1


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_a_student_that_is_its_teacher_has_no_divergence_and_no_gradient(tau):
    hidden, head, targets, *_ = inputs()
    found = InheritanceLoss(temperature=tau, chunk_rows=8)(hidden, head, targets, hidden.detach(), head.detach(), 1.0)
    assert found.divergence.abs() < 1e-14
    for gradient in torch.autograd.grad(found.mixed, (hidden, head)):
        assert gradient.abs().max() < 1e-15


def test_at_alpha_1_the_targets_have_no_influence():
    hidden, head, targets, taught, teacher_head = inputs()
    given = [(hidden, head, each, taught, teacher_head) for each in (targets, (targets + 1) % VOCAB)]
    first, second = (torch.autograd.grad(InheritanceLoss()(*each, 1.0).mixed, each[:2]) for each in given)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_at_high_temperature_the_gradient_is_that_of_centred_logits():
    logits = (0.5 * torch.randn(ROWS, VOCAB, dtype=torch.float64)).requires_grad_()
    teacher, one = 0.5 * torch.randn(ROWS, VOCAB, dtype=torch.float64), torch.eye(VOCAB, dtype=torch.float64)
    loss = InheritanceLoss(temperature=16.0)(logits, one, torch.zeros(ROWS, dtype=torch.int64), teacher, one, 1.0)
    (found,) = torch.autograd.grad(loss.mixed, logits)
    difference = (logits - teacher).detach()
    wanted = (difference - difference.mean(-1, keepdim=True)) / (ROWS * VOCAB)
    assert (found - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize(("tokens", "alpha"), [(0, 1.0), (250, 0.5), (500, 0.0), (1000, 0.0)])
def test_alpha_falls_in_proportion_to_tokens_and_not_below_zero(tokens, alpha):
    settings = ObjectiveSettings(name="", kind="knowledge_inheritance", teacher="T", alpha=1.0, alpha_decay=2.0)
    assert alpha_at(settings, tokens, 1000) == alpha


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"kind": "knowledge_inheritance"}, "objective.teacher=RUN"),
        ({"teacher": "T"}, "the other objectives have none"),
        ({"kind": "knowledge_inheritance", "teacher": "T", "alpha": 0.0}, "above 0 and up to 1"),
        ({"kind": "knowledge_inheritance", "teacher": "T", "alpha": 1.5}, "above 0 and up to 1"),
        ({"kind": "knowledge_inheritance", "teacher": "T", "alpha_decay": -1.0}, "alpha_decay"),
        ({"kind": "knowledge_inheritance", "teacher": "T", "temperature": 0.0}, "temperature"),
        ({"kind": "other"}, "objective.kind"),
    ],
)
def test_settings_that_mean_nothing_are_refused(keys, says):
    with pytest.raises(ConfigError, match=says):
        ObjectiveSettings(name="x", **keys)


TAUGHT = ("objective=knowledge_inheritance", "trainer.log_every_steps=1")


@pytest.fixture(scope="module")
def taught(trained_once):
    """A run whose teacher is another one, for half of its tokens."""
    teacher = trained_once()
    return trained_once(
        *TAUGHT, f"objective.teacher={teacher}", "objective.alpha_decay=2.0", "seed=5", "checkpoint.keep_last=9"
    )


def test_a_taught_runs_rows_have_the_teachers_terms_and_its_flops(taught, rows):
    trained = [row for row in rows(taught) if "train/loss" in row]
    assert [row["inherit/alpha"] for row in trained] == pytest.approx(
        [1 - step / 5 if step < 5 else 0 for step in range(10)]
    )
    for row in trained[:5]:
        alpha = row["inherit/alpha"]
        mixed = (1 - alpha) * row["train/loss"] + alpha * row["inherit/kl"]
        assert row["inherit/loss"] == pytest.approx(mixed, rel=1e-5)
    assert not any("inherit/kl" in row or "inherit/loss" in row for row in trained[5:])
    own = trained[-1]["flops"] - trained[-2]["flops"]
    assert [row["flops"] for row in trained] == [own * (step + 1) + own // 3 * min(step + 1, 5) for step in range(10)]


def _sizes(run):
    return {path.relative_to(run): path.stat().st_size for path in run.rglob("*.safetensors")}


@pytest.mark.slow
def test_checkpoints_and_the_model_of_a_taught_run_hold_no_teacher(taught, trained_once):
    alone = _sizes(trained_once())
    assert alone.items() <= _sizes(taught).items()
    assert set(_sizes(taught).values()) == set(alone.values())


@pytest.mark.slow
def test_once_its_share_is_0_a_teacher_leaves_the_bits_of_next_token_training(taught, train, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(taught, run)
    for later in [run / "model", *(path for path in (run / "checkpoints").iterdir() if path.name > "step-00000006")]:
        shutil.rmtree(later)
    train(run, "trainer.log_every_steps=1", "seed=5", "resume=changed")  # from step 6, without a teacher
    weights = "model/model.safetensors"
    assert (run / weights).read_bytes() == (taught / weights).read_bytes()


@pytest.mark.slow
def test_a_taught_run_leaves_its_teacher_as_it_was_and_asks_it_at_taught_steps_only(
    trained_once, train, tmp_path, monkeypatch
):
    teacher = trained_once()
    before, asked = (teacher / "model/model.safetensors").read_bytes(), []
    of = Teaching.of
    monkeypatch.setattr(Teaching, "of", lambda self, *given: asked.append(given[-1]) or of(self, *given))
    train(
        tmp_path / "run", *TAUGHT, f"objective.teacher={teacher}", "objective.alpha_decay=5.0", "trainer.micro_batch=8"
    )
    assert asked == [0, 128]
    assert (teacher / "model/model.safetensors").read_bytes() == before


def test_a_teacher_of_another_vocabulary_is_refused_with_both(trained_once, train, tmp_path):
    teacher = trained_once()
    with pytest.raises(ConfigError, match=r"64 entries, the student one of 65"):
        train(tmp_path / "run", *TAUGHT, f"objective.teacher={teacher}", "model.vocab_size=65")


@pytest.mark.slow
def test_a_grown_model_is_not_taught_by_its_source_alone(trained_once, train, tmp_path):
    source = trained_once()
    growth = ["growth=hyperclone_noisy", f"growth.source={source}", "model.embed=32", "model.heads=4", "model.ffn=48"]
    with pytest.raises(ConfigError, match="rounding errors"):
        train(tmp_path / "run", *growth, *TAUGHT, "objective.teacher=growth.source", "objective.alpha_decay=0")
    held = train(tmp_path / "held", *growth, *TAUGHT, "objective.teacher=growth.source", "objective.alpha=0.5")
    assert (held / "model").is_dir()
