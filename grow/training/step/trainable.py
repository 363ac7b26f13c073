"""Which weights a step trains, and what of the model it runs.

    all          embedding | 1 2 3 4 5 6 | norm, head        everything
    new_layers  (embedding | 1 2 3 4) 5 6 | norm, head       the layers that the growth added                     (MSLT)
    submodel    (embedding | 1 2) 3 4 | norm, head           of the bottom n blocks, n drawn for each step, the last
                                                             one; layers above it do not run   (bert2BERT, stage one)

What is in brackets has requires_grad off, so autograd keeps nothing of it: it runs forward only. A weight that a step
does not train is neither updated nor decayed, and its moments and their count of steps stand still. A tied head is
what the embedding is under new_layers, where the embedding must not move (MSLT); under submodel, which trains the head
whatever it is tied to, the table learns as the head and is only read as the embedding.

Sources: MSLT (Yang et al. 2020, arXiv 2011.13635): what was trained before is frozen, head and final norm are not;
bert2BERT (Chen et al. 2022, arXiv 2110.07143, section 3.5): "only update its top layers and the shared head".
Deviation: where the layers are no multiple of the block, the last block is shorter.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from grow.common.errors import GrowthError
from grow.families.build import training_flops_per_token
from grow.families.registry import family_of
from grow.families.table import find_parameter
from grow.training.settings import TrainableSettings

_EVERY_STEP = 0  # number of the optimizer groups that no step leaves out
_HEAD_IN = (("head_in",),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What one step runs and trains."""

    depth: int
    """Layers that it runs."""
    trained: range | frozenset[int]
    block: int = _EVERY_STEP
    """Number of the optimizer groups that hold the trained layers."""

    def passes(self, layer: int) -> int:
        """Of forward, gradient of the inputs and gradient of the weights: how many a layer takes part in."""
        if layer in self.trained:
            return 3
        return 2 if layer > min(self.trained) else 1


def parts_of(settings: TrainableSettings, layers: int, new_layers: Collection[int]) -> list[Part]:
    """What the steps of a run choose from.

    Args:
        settings: which weights are trained.
        layers: of the model.
        new_layers: those that the growth repeated.

    Raises:
        GrowthError: the new layers are to be trained, and there are none.
    """
    if settings.kind == "all":
        return [Part(depth=layers, trained=range(layers))]
    if settings.kind == "new_layers":
        if not new_layers:
            raise GrowthError(
                "trainable=new_layers: expected a growth that adds layers, found none that repeats another one. "
                "Choose a target with more layers, or trainable=all."
            )
        return [Part(depth=layers, trained=frozenset(new_layers))]
    starts = range(0, layers, settings.block_layers)
    ends = [*starts[1:], layers]
    return [
        Part(depth=end, trained=range(start, end), block=number)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True), start=1)
    ]


def part_of_step(parts: Sequence[Part], seed: int, step: int) -> Part:
    """The part that a step trains: a function of the two alone, so alike on all ranks and after a restart."""
    if len(parts) == 1:
        return parts[0]
    return parts[int(np.random.default_rng((seed, step)).integers(len(parts)))]


class TrainableSet:
    """Turns the gradients of a model's weights on and off, and cuts the model to what a step runs.

    Args:
        model: stock; its weights that no step trains are frozen here, before an optimizer or a strategy sees them.
        settings: which weights are trained.
        seed: of the draws.
        sequence_length: tokens a sequence, on which the FLOPs of attention depend.
        new_layers: those that the growth repeated.

    Raises:
        GrowthError: as `parts_of`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: TrainableSettings,
        *,
        seed: int,
        sequence_length: int,
        new_layers: Collection[int] = (),
    ) -> None:
        self._decoder: Any = model.get_decoder()
        self._layers: nn.ModuleList = self._decoder.layers
        self._parts = parts_of(settings, len(self._layers), new_layers)
        self._seed, self._part = seed, self._parts[0]
        self._draws = settings.kind == "submodel"
        if settings.kind != "all":
            self._freeze(model, trains_tied_table=self._draws)
        self._flops = {part.block: _flops_per_token(model, part, sequence_length) for part in self._parts}
        self._runs = {part.block: self._layers[: part.depth] for part in self._parts}

    def _freeze(self, model: PreTrainedModel, *, trains_tied_table: bool) -> None:
        model.requires_grad_(False)
        for layer in {layer for part in self._parts for layer in part.trained}:
            self._layers[layer].requires_grad_(True)
        family = family_of(model.config.model_type)
        for name, parameter in model.named_parameters():
            line = find_parameter(family.table, family.stored_name(name))
            if line is not None and not line.is_layered:  # after the layers: final norm, projection out, head
                parameter.requires_grad_(_HEAD_IN in (*line.writes, line.reads))
        table, head = model.get_input_embeddings(), model.get_output_embeddings()
        if trains_tied_table and table.weight is head.weight:
            table.weight.requires_grad_(True)
            table.register_forward_hook(lambda module, inputs, embedded: embedded.detach())

    def blocks(self, model: nn.Module) -> dict[str, int]:
        """Parameter name -> number of the optimizer groups it belongs to; those of every step are left out."""
        block_of = {
            id(parameter): part.block
            for part in self._parts
            for layer in part.trained
            for parameter in self._layers[layer].parameters()
        }
        return {name: block_of[id(each)] for name, each in model.named_parameters() if block_of.get(id(each))}

    def flops_per_token(self, step: int) -> int:
        """FLOPs that a token of a step costs: of what runs, and backward only where there are gradients."""
        return self._flops[part_of_step(self._parts, self._seed, step).block]

    @contextmanager
    def in_force(self, step: int) -> Iterator[None]:
        """The model as a step runs it, for the length of its forward pass; the gradients stay on or off after it."""
        if not self._draws:
            yield
            return
        self._part = part_of_step(self._parts, self._seed, step)
        for number, layer in enumerate(self._layers):
            layer.requires_grad_(number in self._part.trained)
        self._decoder.layers = self._runs[self._part.block]
        try:
            yield
        finally:
            self._decoder.layers = self._layers

    def watch(self, optimizer: Optimizer) -> None:
        """Let the optimizer pass over what a step did not train: ZeRO hands it zeros for that, not nothing."""
        if self._draws:
            optimizer.register_step_pre_hook(self._pass_over)

    def _pass_over(self, optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            if group["block"] not in (_EVERY_STEP, self._part.block):
                for parameter in group["params"]:
                    parameter.grad = None


def _flops_per_token(model: PreTrainedModel, part: Part, sequence_length: int) -> int:
    """`training_flops_per_token` in thirds: all layers are alike, and each pass costs the same."""
    whole, layers = training_flops_per_token(model, sequence_length), model.get_decoder().layers
    inside = {id(module) for module in layers.modules()}
    outside = [module for module in model.modules() if isinstance(module, nn.Linear) and id(module) not in inside]
    layer = (whole - sum(6 * module.weight.numel() for module in outside)) // len(layers)
    head = model.get_output_embeddings()
    around = sum(2 * _passes(module, head) * module.weight.numel() for module in outside)
    return around + sum(layer * part.passes(number) // 3 for number in range(part.depth))


def _passes(module: nn.Linear, head: nn.Module) -> int:
    if module.weight.requires_grad:
        return 3
    return 2 if module is head else 1
