"""The sequences that a run reads at some positions, decoded, with where they come from."""

from dataclasses import asdict, dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from grow.data.mixture import Mixture
from grow.data.run_order import RunOrder, run_order
from grow.data.settings import DataSettings
from grow.data.shards import TokenShards
from grow.data.windows import Windows


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadSequence:
    """One training sequence."""

    position: int
    source: str
    file: str
    token: int
    """Index of its first token in the file."""
    text: str


def order_of(settings: DataSettings, shards: TokenShards, seed: int) -> tuple[Windows, RunOrder]:
    """Return the training windows of a run, and its order.

    Raises:
        ConfigError: the mixture names a source that has no window.
    """
    windows = shards.windows("train", settings.sequence_length)
    stages = None if settings.stages is None else [asdict(stage) for stage in settings.stages]
    return windows, run_order(windows, seed, Mixture.of(settings.mixture, stages, settings.sequence_length))


def read_sequences(
    windows: Windows, order: RunOrder, positions: range, tokenizer: PreTrainedTokenizerFast
) -> list[ReadSequence]:
    """Return what a run reads at some positions.

    Args:
        windows: Windows of the training split.
        order: Order of the run.
        positions: Positions of the run, in sequences.
        tokenizer: Tokenizer of the shards.
    """
    indices = order.windows_at(np.array(positions, np.int64))
    shards = [windows.shards[index] for index in windows.shards_of(indices).tolist()]
    texts = tokenizer.batch_decode(windows.take(indices).tolist())
    starts = windows.first_tokens(indices).tolist()
    return [
        ReadSequence(position=position, source=shard.source, file=shard.file, token=start, text=text)
        for position, shard, start, text in zip(positions, shards, starts, texts, strict=True)
    ]
