"""A sequence in a packed row gets the same scores as alone, in every family."""

import random

import pytest
import torch

from grow.evaluation import scoring
from grow.evaluation.packing import Request, pack
from grow.evaluation.scoring import Scorer
from tests.evaluation.made import FAMILIES, VOCABULARY, make_model

CPU = torch.device("cpu")


def some_requests() -> tuple[list[Request], list[int]]:
    """Three items of three, one and four choices; the last item's sequences share nothing."""
    draw = random.Random(1)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(VOCABULARY) for _ in range(count))

    context = ids(11)
    wholes = [context + ids(count) for count in (3, 1, 6)] + [ids(20)] + [ids(count) for count in (5, 5, 9, 2)]
    targets = [3, 1, 6, 1, 2, 3, 4, 1]
    requests = [Request(whole[:-1], whole[-count:]) for whole, count in zip(wholes, targets, strict=True)]
    return requests, [0, 0, 0, 1, 2, 2, 2, 2]


def alone(model, request: Request) -> tuple[float, bool]:
    """Score one sequence in the plain way, from its full logits."""
    with torch.no_grad():
        table = model(torch.tensor([request.inputs])).logits[0].log_softmax(-1)[-len(request.targets) :]
    targets = torch.tensor(request.targets)
    return table.gather(1, targets[:, None]).sum().item(), bool((table.argmax(-1) == targets).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_score_as_single_sequences_do(family):
    model = make_model(family)
    requests, items = some_requests()
    answers = Scorer(model=model, device=CPU).score(pack(requests, items))
    for index, request in enumerate(requests):
        logprob, greedy = alone(model, request)
        assert answers[index].logprob == pytest.approx(logprob, abs=2e-4)
        assert answers[index].greedy == greedy


def test_attention_to_other_branches_would_change_the_scores(model, monkeypatch):
    def everything_earlier(branches):
        width = branches.shape[1]
        return torch.ones(len(branches), 1, width, width, dtype=torch.bool).tril()

    monkeypatch.setattr(scoring, "_visible", everything_earlier)
    requests, items = some_requests()
    answers = Scorer(model=model, device=CPU).score(pack(requests, items))
    assert answers[2].logprob != pytest.approx(alone(model, requests[2])[0], abs=1e-2)


def test_the_first_choice_of_the_model_is_greedy(model):
    start = (5, 6, 7)
    with torch.no_grad():
        first = int(model(torch.tensor([start])).logits[0, -1].argmax())
    answers = Scorer(model=model, device=CPU).score(
        pack([Request(start, (first,)), Request(start, (first ^ 1,))], [0, 0])
    )
    assert (answers[0].greedy, answers[1].greedy) == (True, False)


def test_chunks_of_the_vocabulary_projection_change_no_bit(model, monkeypatch):
    requests, items = some_requests()
    whole = Scorer(model=model, device=CPU).score(pack(requests, items))
    monkeypatch.setattr(scoring, "LOGIT_BYTES", 4 * VOCABULARY * 5)
    pieces = Scorer(model=model, device=CPU).score(pack(requests, items))
    assert {index: answer.greedy for index, answer in whole.items()} == {i: a.greedy for i, a in pieces.items()}
    for index, answer in whole.items():
        assert pieces[index].logprob == pytest.approx(answer.logprob, abs=1e-5)
