"""Perplexity and bits per byte of held-out text, source by source.

Each source is read in windows of the training length; all models with the same data get the same windows. Every token
is predicted from those before it in its window. Bits per byte compare models with different tokenizers:

    loss = mean nats per token        perplexity = exp(loss)        bits per byte = total nats / (ln 2 * total bytes)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from grow.common.errors import DataError
from grow.data.order import order
from grow.data.shards import TokenShards
from grow.data.tokenizer import bytes_per_token
from grow.evaluation.packing import Request, make_batches, pack
from grow.evaluation.parallel import distribute
from grow.evaluation.scoring import Scorer

WINDOW_SEED = 0  # chooses the windows; it is not the run's seed, so that all runs read the same windows


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """The scores of a model on one source."""

    tokens: int
    """Predicted tokens."""
    loss: float
    """Mean nats per token."""
    bits_per_byte: float

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss)


def measure_heldout(
    scorer: Scorer,
    tokenizer: PreTrainedTokenizerFast,
    shards: TokenShards,
    *,
    sequence_length: int,
    tokens: int,
    batch_tokens: int,
    show_progress: Callable[[str, int, int], None],
) -> dict[str, HeldOut]:
    """Measure a model on each source of the validation split. All ranks call this and get the same.

    Args:
        scorer: Model that scores the windows.
        tokenizer: Tokenizer of the shards, from which the bytes of each token are known.
        shards: Token shards whose validation split is measured.
        sequence_length: Predicted tokens of one window.
        tokens: Largest number of predicted tokens of each source.
        batch_tokens: Largest number of tokens in a batch, padding included.
        show_progress: Function called as windows are scored.

    Returns:
        Source -> its scores; sources without a whole window are left out.

    Raises:
        DataError: no source has a whole window.
    """
    lengths = bytes_per_token(tokenizer)
    found = {}
    for source in shards.sources:
        windows = _windows(shards, source, sequence_length, tokens)
        if len(windows):
            found[source] = _measure(scorer, windows, lengths, batch_tokens, partial(show_progress, source))
    if not found:
        raise DataError(
            f"{shards.path}: expected a held-out source with {sequence_length + 1} tokens in a file, found none. Give "
            "heldout= with more held-out text, or set evaluation.heldout_tokens=0."
        )
    return found


def _windows(shards: TokenShards, source: str, sequence_length: int, tokens: int) -> NDArray[np.int64]:
    """Return the ids of a source's windows: (windows, sequence_length + 1)."""
    windows = shards.windows("validation", sequence_length, source)
    count = min(len(windows), max(1, tokens // sequence_length))
    return windows.take(order(np.arange(count), max(len(windows), 1), WINDOW_SEED))


def _measure(
    scorer: Scorer,
    windows: NDArray[np.int64],
    lengths: NDArray[np.int64],
    batch_tokens: int,
    progress: Callable[[int, int], None],
) -> HeldOut:
    requests = [Request(tuple(ids[:-1]), tuple(ids[1:])) for ids in windows.tolist()]
    nats: dict[int, float] = {}
    for scored in distribute(make_batches(pack(requests, range(len(requests))), batch_tokens), scorer.score):
        for part in scored:
            nats.update((index, -answer.logprob) for index, answer in part.items())
        progress(len(nats), len(requests))
    total, targets = math.fsum(nats.values()), windows[:, 1:]
    return HeldOut(
        tokens=targets.size,
        loss=total / targets.size,
        bits_per_byte=total / math.log(2) / max(int(lengths[targets].sum()), 1),
    )
