"""Validation: loss, perplexity and bits per byte of held-out text, over all of it and for each source.

A source is measured on its share of the same windows, so sources cost nothing extra, and the loss of the whole is the
weighted mean of the losses of the sources:

    perplexity = exp(loss)        bits per byte = nats of all tokens / (ln 2 * bytes of all tokens)

S number of sources.
"""

import math

import numpy as np
import torch

from grow.common.errors import DataError
from grow.data.data_module import TokenDataModule
from grow.data.tokenizer import bytes_per_token, load_tokenizer
from grow.distributed.processes import gather
from grow.training.step.module import PretrainModule

_LARGEST_EXPONENT = 700.0  # nats; exp of more overflows a float64


class Validation:
    """Measures the validation losses of a run. All ranks make one, and measure together.

    Args:
        data: Validation batches of this rank, and the shards that they come from.
        module: Module that trains.
    """

    def __init__(self, data: TokenDataModule, module: PretrainModule) -> None:
        self._data, self._module = data, module
        self._names = data.shards.sources
        self._sources = torch.from_numpy(data.val_sources()).to(module.device)  # (windows,)
        self.without_bytes: str | None = None
        """Reason why no bits per byte are measured; None where they are."""
        windows, targets, byte_counts = np.zeros((3, len(self._names)))
        lengths, sources, batches = self._bytes_per_token(), iter(data.val_sources().tolist()), 0
        for batch in data.val_dataloader():
            batches += 1
            for window, source in zip(batch.numpy(), sources, strict=False):
                windows[source] += 1
                targets[source] += len(window) - 1
                byte_counts[source] += 0 if lengths is None else lengths[window[1:]].sum()
        sums = self._reduce(torch.from_numpy(np.stack((windows, targets, byte_counts))).to(module.device))
        self._window_counts, self._tokens, self._bytes = sums.numpy()  # (S,) each, of all ranks
        self._passes = max(gather(batches))

    def measure(self, averaged: bool) -> dict[str, float]:
        """Return metrics by name: val/loss, val/perplexity, val/bits_per_byte, and the same as val/SOURCE/loss etc.

        Metrics that cannot be computed are left out: bits per byte without a tokenizer, a perplexity that overflows.

        Args:
            averaged: Whether the model holds averaged weights; the names then begin with val_avg.
        """
        losses = self._module.validation_losses(self._data.val_dataloader(), self._passes)
        sums = torch.zeros(len(self._names), dtype=torch.float64, device=losses.device)
        nats = self._reduce(sums.index_add_(0, self._sources, losses)).numpy()
        prefix = "val_avg" if averaged else "val"
        found = self._metrics(prefix, nats, slice(None))
        for number, name in enumerate(self._names):
            if self._window_counts[number]:
                found |= self._metrics(f"{prefix}/{name}", nats, slice(number, number + 1))
        return found

    def _metrics(self, prefix: str, nats: np.ndarray, part: slice) -> dict[str, float]:
        loss = float(nats[part].sum() / self._window_counts[part].sum())  # all windows have the same length
        found = {f"{prefix}/loss": loss}
        if loss < _LARGEST_EXPONENT:
            found[f"{prefix}/perplexity"] = math.exp(loss)
        if read := self._bytes[part].sum():
            found[f"{prefix}/bits_per_byte"] = float(loss * self._tokens[part].sum() / math.log(2) / read)
        return found

    def _reduce(self, values: torch.Tensor) -> torch.Tensor:
        return self._module.trainer.strategy.reduce(values, reduce_op="sum").cpu()

    def _bytes_per_token(self) -> np.ndarray | None:
        shards = self._data.shards
        try:
            own = bytes_per_token(load_tokenizer(str(shards.tokenizer_dir)))
        except DataError as error:
            self.without_bytes = str(error)
            return None
        return np.pad(own, (0, max(0, shards.vocab_size - len(own))))  # ids that the tokenizer never makes
