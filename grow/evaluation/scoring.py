"""Log-likelihoods of packed rows: one pass through the trunk, and the vocabulary only at the positions that are scored.

B rows, T places, D width, U positions that are scored, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from grow.common.errors import ConfigError
from grow.evaluation.packing import PackedRow

LOGIT_BYTES = 256 * 2**20  # of float32 logits that exist at one time


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says to one request."""

    logprob: float
    """Of all targets together, in nats."""
    greedy: bool
    """Whether every target is the model's own first choice."""


WithoutGrad = Callable[[Callable[[], dict[int, Answer]]], dict[int, Answer]]
"""Computes one pass that only looks at a model."""


def without_gradients(compute: Callable[[], dict[int, Answer]]) -> dict[int, Answer]:
    """One pass of a model that nobody trains."""
    with torch.no_grad():
        return compute()


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """A model that scores rows.

    Args:
        model: a stock causal language model of a family Grow knows, in memory.
        device: its device.
        without_grad: computes one pass; a model that trains knows how, in its precision and under its strategy.
    """

    model: PreTrainedModel
    device: torch.device
    without_grad: WithoutGrad = without_gradients

    def score(self, rows: Sequence[PackedRow]) -> dict[int, Answer]:
        """The answer to each request of a batch of rows.

        Raises:
            ConfigError: the batch does not fit the device.
        """
        try:
            return self.without_grad(lambda: self._score(rows))
        except torch.OutOfMemoryError:
            places = len(rows) * max(len(row.tokens) for row in rows)
            raise ConfigError(
                f"evaluation.batch_tokens: a batch of {places:,} tokens does not fit {self.device}. Set it lower."
            ) from None

    def _score(self, rows: Sequence[PackedRow]) -> dict[int, Answer]:
        hidden = self.model.base_model(**self._inputs(rows), use_cache=False).last_hidden_state  # (B, T, D)
        scored = [(number, part) for number, row in enumerate(rows) for part in row.scored]
        width = hidden.shape[1]
        places = np.array([number * width + place for number, part in scored for place in part.places])
        targets = np.array([target for _, part in scored for target in part.targets])
        logprobs, firsts = self._targets(hidden.flatten(0, 1), places, targets)
        ends = np.cumsum([len(part.targets) for _, part in scored])
        starts = np.concatenate([[0], ends[:-1]])
        sums = np.add.reduceat(logprobs, starts)
        greedy = np.logical_and.reduceat(firsts, starts)
        return {
            part.request: Answer(float(total), bool(first))
            for (_, part), total, first in zip(scored, sums, greedy, strict=True)
        }

    def _inputs(self, rows: Sequence[PackedRow]) -> dict[str, Tensor]:
        """Tokens padded on the right, which no earlier token sees; positions and a mask only where rows branch."""
        width = max(len(row.tokens) for row in rows)
        tokens = np.zeros((len(rows), width), np.int64)
        for line, row in zip(tokens, rows, strict=True):
            line[: len(row.tokens)] = row.tokens
        inputs = {"input_ids": torch.from_numpy(tokens).to(self.device)}
        if any(row.branches for row in rows):
            positions, branches = (torch.from_numpy(table).to(self.device) for table in _places(rows, width))
            inputs |= {"position_ids": positions, "attention_mask": _visible(branches)}
        return inputs

    def _targets(self, hidden: Tensor, places: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log-probability of each target (float64) and whether it comes first; a place is projected once.

        Args:
            hidden: (B T, D).
            places: rows of `hidden`, one a target.
            targets: token ids.
        """
        unique, which = np.unique(places, return_inverse=True)
        order = np.argsort(which, kind="stable")
        sorted_which = which[order]
        head = self.model.get_output_embeddings()
        chunk = max(1, LOGIT_BYTES // (4 * self.model.config.vocab_size))
        logprobs, firsts = [], []
        for start in range(0, len(unique), chunk):
            piece = torch.from_numpy(unique[start : start + chunk]).to(self.device)
            table = functional.log_softmax(head(hidden[piece]), dim=-1, dtype=torch.float32)  # (U, V)
            low, high = np.searchsorted(sorted_which, (start, start + chunk))
            rows = torch.from_numpy(sorted_which[low:high] - start).to(self.device)
            wanted = torch.from_numpy(targets[order[low:high]]).to(self.device)
            logprobs.append(table[rows, wanted].double().cpu())
            firsts.append((table.argmax(-1)[rows] == wanted).cpu())
        back = np.argsort(order, kind="stable")
        return torch.cat(logprobs).numpy()[back], torch.cat(firsts).numpy()[back]


def _places(rows: Sequence[PackedRow], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Position of each token in its own sequence, and its branch: 0 the trunk, -1 padding. Both int64 (B, T)."""
    positions, branches = np.zeros((len(rows), width), np.int64), np.full((len(rows), width), -1, np.int64)
    for position, branch, row in zip(positions, branches, rows, strict=True):
        trunk, start = row.lengths[0], 0
        for number, length in enumerate(row.lengths):
            stop = start + length
            position[start:stop] = np.arange(length) + (trunk if number else 0)
            branch[start:stop] = number
            start = stop
    return positions, branches


def _visible(branches: Tensor) -> Tensor:
    """(B, 1, T, T) bool: which tokens (last) each token (third) sees: earlier ones of the trunk or of its branch."""
    width = branches.shape[1]
    earlier = torch.ones(width, width, dtype=torch.bool, device=branches.device).tril()
    seen, sees = branches[:, None, :], branches[:, :, None]
    return (earlier & ((seen == 0) | (seen == sees)))[:, None]
