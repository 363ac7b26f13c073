"""The average of the weights in a run: each rank averages its own fragments, which are assembled only to be used.

A rank takes snapshots of its fragments without communication, but for `agree`, by which all ranks drop a snapshot that
is not finite on one of them. Putting the average into the model, or into a file,
assembles the ranks' fragments one parameter at a time.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from grow.averaging.average import Average
from grow.averaging.swap import averaged
from grow.distributed.processes import is_first
from grow.training.checkpoints.fragments import Fragment, kept_in_shards, owned_fragments


class RunAverage:
    """The average of a run's weights, connected to the model that trains.

    Args:
        average: Average of this rank's fragments.
        model: Model as it trains.
        optimizer: Optimizer as Lightning holds it.
    """

    def __init__(self, average: Average, model: nn.Module, optimizer: Any) -> None:
        self.average = average
        self._model = model
        self.fragments = owned_fragments(model, optimizer)

    def due(self, step: int) -> bool:
        """Return whether a snapshot is taken after this step."""
        return self.average.plan.due(step)

    def push(self, step: int) -> None:
        """Take a snapshot of the weights after this step; they are only read."""
        self.average.push(step, {fragment.name: fragment.values for fragment in self.fragments})

    @property
    def ready(self) -> bool:
        """Whether there are enough snapshots for an average; the same on every rank."""
        return self.average.ready

    def in_model(self) -> AbstractContextManager[None]:
        """Put the average into the live model for the duration of a `with` block; all ranks must enter it."""
        mean = self.average.mean()
        if kept_in_shards(self._model) == "zero3":
            return self._in_zero3_model(mean)
        live = dict(self._model.named_parameters())
        if not dist.is_initialized() or kept_in_shards(self._model) == "fsdp2":
            return averaged({fragment.name: fragment.values for fragment in self.fragments}, mean)
        return averaged({name: value.detach() for name, value in live.items()}, Assembled(live, self.fragments, mean))

    def full(self) -> dict[str, Tensor] | None:
        """Return the average of every parameter on rank 0's host, None on other ranks; all ranks must call this."""
        assembled = Assembled(dict(self._model.named_parameters()), self.fragments, self.average.mean())
        weights = {}
        for name, tensor in assembled.items():
            if is_first():
                weights[name] = tensor.cpu()
        return weights if is_first() else None

    @contextmanager
    def _in_zero3_model(self, mean: Mapping[str, Tensor]) -> Iterator[None]:
        """Put the average into ZeRO-3's weights, which are copies of its masters, and restore them from the masters."""
        try:
            self._fill_zero3(mean)
            yield
        finally:
            self._fill_zero3({fragment.name: fragment.values for fragment in self.fragments})

    def _fill_zero3(self, values: Mapping[str, Tensor]) -> None:
        import deepspeed

        live = dict(self._model.named_parameters())
        for name, tensor in Assembled(live, self.fragments, values).items():
            with deepspeed.zero.GatheredParameters([live[name]], modifier_rank=0), torch.no_grad():
                if is_first():
                    live[name].copy_(tensor)


class Assembled(Mapping[str, Tensor]):
    """Maps names to whole parameters, assembled from the fragments of all ranks.

    All ranks must read the same names in the same order.

    Args:
        parameters: Parameters of the model, which give names, shapes and devices.
        fragments: Fragments of this rank.
        values: Values of this rank's fragments, by name.
    """

    def __init__(self, parameters: Mapping[str, Any], fragments: list[Fragment], values: Mapping[str, Tensor]) -> None:
        self._parameters, self._values = parameters, values
        self._fragments = {fragment.name: fragment for fragment in fragments}

    def __getitem__(self, name: str) -> Tensor:
        parameter = self._parameters[name]
        shape = getattr(parameter, "ds_shape", parameter.shape)  # under ZeRO-3 the parameter itself is empty
        whole = torch.zeros(shape.numel(), dtype=torch.float32, device=parameter.device)
        if name in self._fragments:
            fragment = self._fragments[name]
            whole[fragment.start : fragment.stop].copy_(self._values[name])
        if dist.is_initialized():
            dist.all_reduce(whole)  # one rank owns each element and the others add zero: the sum is exact
        return whole.view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)
