"""Which weights a step trains, and which layers of the model it runs.

    all          embedding | 1 2 3 4 5 6 | norm, head        everything
    new_layers  (embedding | 1 2 3 4) 5 6 | norm, head       the layers that the growth added                     (MSLT)
    submodel    (embedding | 1 2) 3 4 | norm, head           block n, with n sampled at each step; layers above it do
                                                             not run                           (bert2BERT, stage one)

Weights in brackets have requires_grad off: they run forward only, and autograd keeps none of their activations. A
weight that a step does not train is neither updated nor decayed, and its moments and their step count do not change.
A tied head is frozen with the embedding under new_layers, where the embedding must not move (MSLT). Under submodel,
which always trains the head, a tied table gets the gradient of the head and none of the embedding.

Sources: MSLT (Yang et al. 2020, arXiv 2011.13635) freezes what was trained before, except the head and the final norm;
bert2BERT (Chen et al. 2022, arXiv 2110.07143, section 3.5): "only update its top layers and the shared head".
Deviation: where the number of layers is no multiple of the block, the last block is shorter.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from grow.common.errors import GrowthError
from grow.families.build import LINEAR, decoder_blocks, training_flops_per_token
from grow.families.registry import family_of
from grow.families.table import find_parameter
from grow.training.settings import TrainableSettings

_EVERY_STEP = 0  # block number of the optimizer groups that every step trains
_HEAD_IN = (("head_in",),)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The layers that one step runs and trains."""

    depth: int
    """Number of layers that run, from the bottom."""
    trained: range | frozenset[int]
    """Indices of the layers that are trained."""
    block: int = _EVERY_STEP
    """Block number of the optimizer groups that hold the trained layers."""

    def passes(self, layer: int) -> int:
        """Count a layer's passes: forward (1), also the gradient of its inputs (2), also that of its weights (3)."""
        if layer in self.trained:
            return 3
        return 2 if layer > min(self.trained) else 1


def parts_of(settings: TrainableSettings, layers: int, new_layers: Collection[int]) -> list[Part]:
    """Return the parts of the model, of which each step trains one.

    Args:
        settings: Choice of the weights that are trained.
        layers: Number of layers of the model.
        new_layers: Indices of the layers that the growth added.

    Raises:
        GrowthError: the new layers are to be trained, and the growth added none.
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
    """Return the part that a step trains: a function of seed and step alone, so the same on all ranks and later."""
    if len(parts) == 1:
        return parts[0]
    return parts[int(np.random.default_rng((seed, step)).integers(len(parts)))]


class TrainableSet:
    """Turns the gradients of a model's weights on and off, and limits the model to the layers that a step runs.

    Args:
        model: Stock model. Weights that no step trains are frozen here, before an optimizer or a strategy sees them.
        settings: Choice of the weights that are trained.
        seed: Seed from which each step samples its part.
        sequence_length: Tokens of one sequence, on which the FLOPs of attention depend.
        new_layers: Indices of the layers that the growth added.

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
        self._layers_name, self._layers = decoder_blocks(model)
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
            if (
                line is not None and not line.is_layered
            ):  # trained where after the layers: final norm, projection out, head
                parameter.requires_grad_(_HEAD_IN in (*line.writes, line.reads))
        table, head = model.get_input_embeddings(), model.get_output_embeddings()
        if trains_tied_table and table.weight is head.weight:
            table.weight.requires_grad_(True)
            table.register_forward_hook(lambda module, inputs, embedded: embedded.detach())

    def blocks(self, model: nn.Module) -> dict[str, int]:
        """Return the block number of every parameter that some steps do not train, by name."""
        block_of = {
            id(parameter): part.block
            for part in self._parts
            for layer in part.trained
            for parameter in self._layers[layer].parameters()
        }
        return {name: block_of[id(each)] for name, each in model.named_parameters() if block_of.get(id(each))}

    def flops_per_token(self, step: int) -> int:
        """Return the FLOPs of one token at a step, of the layers that run; backward only where there are gradients."""
        return self._flops[part_of_step(self._parts, self._seed, step).block]

    @contextmanager
    def applied_at(self, step: int) -> Iterator[None]:
        """Cut the model to what a step runs, for the duration of a `with` block around its forward pass.

        The block's end restores the layers; which gradients are on stays as the step needs it for its backward pass.
        """
        if not self._draws:
            yield
            return
        self._part = part_of_step(self._parts, self._seed, step)
        for number, layer in enumerate(self._layers):
            layer.requires_grad_(number in self._part.trained)
        setattr(self._decoder, self._layers_name, self._runs[self._part.block])
        try:
            yield
        finally:
            setattr(self._decoder, self._layers_name, self._layers)

    def attach_to(self, optimizer: Optimizer) -> None:
        """Make the optimizer skip the weights that a step does not train: ZeRO gives them zero gradients, not None."""
        if self._draws:
            optimizer.register_step_pre_hook(self._drop_untrained)

    def _drop_untrained(self, optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            if group["block"] not in (_EVERY_STEP, self._part.block):
                for parameter in group["params"]:
                    parameter.grad = None


def _flops_per_token(model: PreTrainedModel, part: Part, sequence_length: int) -> int:
    """Compute the FLOPs of one token of a part: all layers cost the same, and so do the three passes."""
    whole, layers = training_flops_per_token(model, sequence_length), decoder_blocks(model)[1]
    inside = {id(module) for module in layers.modules()}
    linear = (module for module in model.modules() if isinstance(module, LINEAR) and id(module) not in inside)
    outside: list[Tensor] = [module.weight for module in linear]
    layer = (whole - sum(6 * weight.numel() for weight in outside)) // len(layers)
    head = model.get_output_embeddings().weight
    around = sum(2 * _passes(weight, head) * weight.numel() for weight in outside)
    return around + sum(layer * part.passes(number) // 3 for number in range(part.depth))


def _passes(weight: Tensor, head: Tensor) -> int:
    if weight.requires_grad:
        return 3
    return 2 if weight is head else 1
