"""Log-likelihoods of packed rows: one forward pass, and logits only at the places that are scored.

Shapes: B rows, T places in a row, D width of the model, U scored places, V vocabulary.
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

LOGIT_BYTES = 256 * 2**20  # largest size of the float32 logits in memory at one time


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a model to one request."""

    logprob: float
    """Log-probability of all targets together, in nats."""
    greedy: bool
    """Whether every target is the model's most probable token."""


WithoutGrad = Callable[[Callable[[], dict[int, Answer]]], dict[int, Answer]]
"""Calls a function that runs a forward pass, with gradients off, and returns its result."""


def without_gradients(compute: Callable[[], dict[int, Answer]]) -> dict[int, Answer]:
    """Run a forward pass of a model that is not being trained."""
    with torch.no_grad():
        return compute()


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """A model that scores rows.

    Args:
        model: Stock causal language model of a family that Grow knows, in memory.
        device: Device of the model.
        without_grad: Runs one forward pass without gradients. A module in training brings its own, which keeps to its
            precision and strategy.
    """

    model: PreTrainedModel
    device: torch.device
    without_grad: WithoutGrad = without_gradients

    def score(self, rows: Sequence[PackedRow]) -> dict[int, Answer]:
        """Return the answer to each request of a batch of rows, by the request's number.

        Raises:
            ConfigError: the batch does not fit into the device's memory.
        """
        try:
            return self.without_grad(lambda: self._score(rows))
        except torch.OutOfMemoryError:
            places = len(rows) * max(len(row.tokens) for row in rows)
            raise ConfigError(
                f"evaluation.batch_tokens: a batch of {places:,} tokens does not fit into the memory of {self.device}. "
                "Set it lower."
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
        """Return the model's inputs: tokens padded on the right; positions and a mask only where rows have branches.

        Without branches the causal mask already keeps tokens from attending to the padding after them.
        """
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
        """Return the log-probability of each target (float64), and whether it is the most probable token.

        Each place is projected onto the vocabulary once, also where it predicts several targets.

        Args:
            hidden: Outputs of the trunk of the model, (B T, D).
            places: Row of `hidden` that predicts each target.
            targets: Id of each target.
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
    """Return each token's position in its own sequence and its branch (0: trunk, -1: padding), both int64 (B, T)."""
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
    """Return the attention mask, bool (B, 1, queries T, keys T): earlier tokens of the trunk and of the own branch."""
    width = branches.shape[1]
    earlier = torch.ones(width, width, dtype=torch.bool, device=branches.device).tril()
    seen, sees = branches[:, None, :], branches[:, :, None]
    return (earlier & ((seen == 0) | (seen == sees)))[:, None]
