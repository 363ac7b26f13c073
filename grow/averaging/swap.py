"""Swaps averaged values into the live weights for the duration of a `with` block."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

_averaged: set[int] = set()  # addresses of tensors that hold averaged values now; the block keeps them alive


@contextmanager
def averaged(weights: Mapping[str, Tensor], mean: Mapping[str, Tensor]) -> Iterator[None]:
    """Copy an average into live weights, and restore their own values at the end, also after an error.

    Values are copied into the existing storage, so views into a flat buffer and tied weights stay valid. Each value is
    converted to the dtype of the weight.

    Args:
        weights: Live tensors by name, each of them once.
        mean: Averages of the same shapes, by name.

    Raises:
        ValueError: the weights hold averaged values already, or the names differ.
    """
    if weights.keys() != mean.keys():
        raise ValueError(f"expected an average of each weight, found {sorted(weights.keys() ^ mean.keys())[:3]} apart")
    if is_averaged(weights.values()):
        raise ValueError("these weights hold averaged values already")
    own = [(tensor, tensor.detach().clone()) for tensor in weights.values()]
    held = _places(weights.values())
    _averaged.update(held)
    try:
        _fill((tensor, mean[name]) for name, tensor in weights.items())
        yield
    finally:
        _fill(own)
        _averaged.difference_update(held)


def is_averaged(weights: Iterable[Tensor]) -> bool:
    """Return whether any of these holds averaged values now; they must not be saved as the live weights."""
    return not _averaged.isdisjoint(_places(weights))


def _places(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.data_ptr() for tensor in tensors if tensor.numel()}


def _fill(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for tensor, values in pairs:
            tensor.copy_(values)
