"""Sequences to rows and batches: what the sequences of one item share is computed once.

    context + choice 0         [ c0 c1 c2 | a a ]            one row     [ c0 c1 c2 | a a | b b b ]
    context + choice 1         [ c0 c1 c2 | b b b ]          positions     0  1  2    3 4   3 4 5

A row is a trunk, the longest common beginning of its sequences, and a branch for what is left of each. A token sees the
trunk and its own branch before it, and counts its position from the trunk on, so that it cannot tell that the other
branches are there. Whether the trunk ends at the context plays no role: sentences that differ in one word in the
middle (winogrande) share what comes before it, and answers of one token are one sequence with several targets.

Rows are sorted by length and batched under a budget of tokens over *all* requests of a task, before batches are dealt
to ranks. So the shape of the batch that an item is computed in depends on the task alone, never on the number of
ranks, and neither do its bits.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """What is scored: inputs, and the targets that their last positions predict."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    """At most as many as inputs; target i from the right is predicted by input i from the right."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The targets of one request in a row."""

    request: int
    places: tuple[int, ...]
    """Of the row's tokens, those that predict the targets."""
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Sequences that share a trunk."""

    tokens: tuple[int, ...]
    lengths: tuple[int, ...]
    """Of the trunk, then of each branch."""
    scored: tuple[Scored, ...]

    @property
    def branches(self) -> bool:
        return len(self.lengths) > 1


def pack(requests: Sequence[Request], items: Sequence[object]) -> list[PackedRow]:
    """One row for each run of requests of the same item.

    Args:
        requests: in the order of their items.
        items: which item each belongs to; anything that compares.
    """
    groups = itertools.groupby(range(len(requests)), key=lambda index: items[index])
    return [_row([(index, requests[index]) for index in indices]) for _, indices in groups]


def _row(members: list[tuple[int, Request]]) -> PackedRow:
    trunk = _common_beginning([request.inputs for _, request in members])
    tokens = list(members[0][1].inputs[:trunk])
    lengths, scored = [trunk], []
    for index, request in members:
        branch = request.inputs[trunk:]
        shift = len(tokens) - trunk  # of this branch's places, against the sequence's own
        if branch:
            tokens += branch
            lengths.append(len(branch))
        end = len(request.inputs)
        places = tuple(place if place < trunk else place + shift for place in range(end - len(request.targets), end))
        scored.append(Scored(index, places, request.targets))
    return PackedRow(tuple(tokens), tuple(lengths), tuple(scored))


def _common_beginning(sequences: Iterable[tuple[int, ...]]) -> int:
    columns = zip(*sequences, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def make_batches(rows: Sequence[PackedRow], batch_tokens: int) -> list[list[PackedRow]]:
    """Rows of similar length together, longest first; a batch has at most `batch_tokens` places, or one row."""
    batches: list[list[PackedRow]] = []
    for row in sorted(rows, key=lambda row: (-len(row.tokens), row.scored[0].request)):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0].tokens) <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
