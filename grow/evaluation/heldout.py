"""Perplexity and bits per byte of held-out text, source by source.

Each source is read in windows of the training length, the same ones for every model of the same data: every token is
predicted from those before it in its window. Bits per byte compare models of different tokenizers:

    loss = mean nats a token        perplexity = exp(loss)        bits per byte = nats of all / (ln 2 * bytes of all)
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
from grow.data.shards import TokenShards, Windows
from grow.data.tokenizer import bytes_per_token
from grow.evaluation.packing import Request, make_batches, pack
from grow.evaluation.parallel import deal
from grow.evaluation.scoring import Scorer

WINDOW_SEED = 0  # of which windows are read; not a run's, so that all runs read the same


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """What a model makes of one source."""

    tokens: int
    loss: float
    """Mean nats a token."""
    bits_per_byte: float

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)


def measure_heldout(
    scorer: Scorer,
    tokenizer: PreTrainedTokenizerFast,
    shards: TokenShards,
    *,
    sequence_length: int,
    tokens: int,
    batch_tokens: int,
    watch: Callable[[str, int, int], None],
) -> dict[str, HeldOut]:
    """Loss, perplexity and bits per byte of each source of the validation split. All ranks call this.

    Args:
        scorer: the model.
        tokenizer: says how many bytes a token stands for.
        shards: the data.
        sequence_length: tokens a window.
        tokens: of each source, at most.
        batch_tokens: places of a batch.
        watch: told about progress.

    Raises:
        DataError: no source has a whole window.
    """
    lengths = bytes_per_token(tokenizer)
    found = {}
    for source in shards.sources:
        windows = _windows(shards, source, sequence_length, tokens)
        if len(windows):
            found[source] = _measure(scorer, windows, lengths, batch_tokens, partial(watch, source))
    if not found:
        raise DataError(
            f"{shards.path}: no held-out source has {sequence_length + 1} tokens in a file. Give heldout= with more "
            "held-out text, or evaluation.heldout_tokens=0."
        )
    return found


def _windows(shards: TokenShards, source: str, sequence_length: int, tokens: int) -> NDArray[np.int64]:
    """(windows, sequence_length + 1) ids."""
    own = [shards.read(shard) for shard in shards.shards if (shard.split, shard.source) == ("validation", source)]
    windows = Windows(own, sequence_length)
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
    for found in deal(make_batches(pack(requests, range(len(requests))), batch_tokens), scorer.score):
        for part in found:
            nats.update((index, -answer.logprob) for index, answer in part.items())
        progress(len(nats), len(requests))
    total, targets = math.fsum(nats.values()), windows[:, 1:]
    return HeldOut(
        tokens=targets.size,
        loss=total / targets.size,
        bits_per_byte=total / math.log(2) / max(int(lengths[targets].sum()), 1),
    )
