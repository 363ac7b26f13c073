"""Packing of sequences into rows and batches: the beginning that an item's sequences share is computed once.

    context + choice 0         [ c0 c1 c2 | a a ]            one row     [ c0 c1 c2 | a a | b b b ]
    context + choice 1         [ c0 c1 c2 | b b b ]          positions     0  1  2    3 4   3 4 5

A row is a trunk, which is the longest common prefix of its sequences, and a branch for the rest of each sequence. A
token attends to the trunk and to earlier tokens of its own branch, and its position counts from the start of its own
sequence. So every token is computed as if the other branches did not exist. The trunk need not end where the context
does: sentences that differ in one word in the middle (winogrande) share the part before it, and answers of one token
are one sequence with several targets.

The rows of *all* requests of a task are sorted by length and batched under a budget of tokens, and only then are the
batches distributed to ranks. So the batch that an item is computed in, and with it the bits of the result, depends on
the task alone and not on the number of ranks.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to score: input ids, and the target ids that the last inputs predict."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    """At most as many as the inputs; the last input predicts the last target, and so on backwards."""


@dataclass(frozen=True, slots=True)
class ScoredTargets:
    """The targets of one request, and the places in its row that predict them."""

    request: int
    """Number of the request."""
    places: tuple[int, ...]
    """Indices into the row's tokens, one for each target."""
    targets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Sequences that share a trunk, in one row."""

    tokens: tuple[int, ...]
    lengths: tuple[int, ...]
    """Tokens of the trunk, then of each branch."""
    scored: tuple[ScoredTargets, ...]

    @property
    def branches(self) -> bool:
        """Whether the row has any branch besides its trunk."""
        return len(self.lengths) > 1


def pack(requests: Sequence[Request], items: Sequence[object]) -> list[PackedRow]:
    """Pack consecutive requests of the same item into one row.

    Args:
        requests: Sequences to score, those of one item next to each other.
        items: Identifier of each request's item.
    """
    groups = itertools.groupby(range(len(requests)), key=lambda index: items[index])
    return [_row([(index, requests[index]) for index in indices]) for _, indices in groups]


def _row(members: list[tuple[int, Request]]) -> PackedRow:
    trunk = _common_prefix([request.inputs for _, request in members])
    tokens = list(members[0][1].inputs[:trunk])
    lengths, scored = [trunk], []
    for index, request in members:
        branch = request.inputs[trunk:]
        shift = len(tokens) - trunk  # of this branch's places in the row, relative to those in its own sequence
        if branch:
            tokens += branch
            lengths.append(len(branch))
        end = len(request.inputs)
        places = tuple(place if place < trunk else place + shift for place in range(end - len(request.targets), end))
        scored.append(ScoredTargets(index, places, request.targets))
    return PackedRow(tuple(tokens), tuple(lengths), tuple(scored))


def _common_prefix(sequences: Iterable[tuple[int, ...]]) -> int:
    """Return the length of the longest common prefix."""
    columns = zip(*sequences, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def make_batches(rows: Sequence[PackedRow], batch_tokens: int) -> list[list[PackedRow]]:
    """Group rows of similar length into batches, longest first.

    Args:
        rows: Packed rows.
        batch_tokens: Largest number of tokens in a batch, padding included; a longer row is a batch of its own.
    """
    batches: list[list[PackedRow]] = []
    for row in sorted(rows, key=lambda row: (-len(row.tokens), row.scored[0].request)):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0].tokens) <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
