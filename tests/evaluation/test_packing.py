"""Packing keeps every sequence whole, shares what can be shared, and batches under the budget."""

from hypothesis import given
from hypothesis import strategies as st

from grow.evaluation.packing import PackedRow, Request, make_batches, pack

IDS = st.lists(st.integers(0, 3), min_size=1, max_size=8)


def request(inputs, targets=(9,)) -> Request:
    return Request(tuple(inputs), tuple(targets))


def sequences(row: PackedRow) -> list[tuple[int, ...]]:
    """Return the tokens that each branch of a row attends to, those of the trunk first."""
    trunk, start, found = row.tokens[: row.lengths[0]], row.lengths[0], []
    for length in row.lengths[1:]:
        found.append(trunk + row.tokens[start : start + length])
        start += length
    assert start == len(row.tokens)
    return found or [trunk]


@given(st.lists(IDS, min_size=1, max_size=5))
def test_every_sequence_of_an_item_can_be_read_off_its_row(inputs):
    (row,) = pack([request(ids) for ids in inputs], [0] * len(inputs))
    assert {*sequences(row), row.tokens[: row.lengths[0]]} >= {tuple(ids) for ids in inputs}
    for ids, scored in zip(inputs, row.scored, strict=True):
        assert row.tokens[scored.places[-1]] == ids[-1]


def test_a_shared_context_is_in_the_row_once():
    (row,) = pack([request([1, 2, 3, 4]), request([1, 2, 3, 5, 6], (5, 6, 7))], [0, 0])
    assert row.tokens == (1, 2, 3, 4, 5, 6)
    assert row.lengths == (3, 1, 2)
    assert row.scored[0].places == (3,)
    assert row.scored[1].places == (2, 4, 5)  # the first target is predicted from the trunk's end


def test_answers_of_one_token_are_one_sequence_with_several_targets():
    (row,) = pack([request([1, 2], (3,)), request([1, 2], (4,))], [0, 0])
    assert row.tokens == (1, 2)
    assert not row.branches
    assert [scored.targets for scored in row.scored] == [(3,), (4,)]


def test_items_do_not_share_rows_even_if_they_begin_alike():
    rows = pack([request([1, 2]), request([1, 2])], ["first", "second"])
    assert [row.scored[0].request for row in rows] == [0, 1]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(10, 60))
def test_batches_hold_every_row_once_longest_first_and_within_the_budget(lengths, budget):
    rows = pack([request([0] * length) for length in lengths], range(len(lengths)))
    batches = make_batches(rows, budget)
    assert sorted(row.scored[0].request for batch in batches for row in batch) == list(range(len(lengths)))
    assert [len(row.tokens) for batch in batches for row in batch] == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * len(batch[0].tokens) <= budget
