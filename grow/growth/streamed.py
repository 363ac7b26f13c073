"""A stored model of any size that computes logits: the weights of a module are in memory only while it computes.

    read its tensors  ->  module(x)  ->  drop them         module by module, in the order the stock class calls them

Invariant: the logits of the loaded model, bit for bit. Peak memory is that of the largest module (all experts of a
layer are one) besides the activations.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from grow.common.errors import CheckpointError
from grow.families.build import attention_of, load_config
from grow.families.registry import family_of
from grow.families.weights import WeightReader
from grow.growth.one_source import find_source_tensor


def streamed_model(directory: Path, dtype: torch.dtype, device: str = "cpu") -> PreTrainedModel:
    """Open the model in a stock checkpoint directory, to compute with it without gradients.

    Args:
        directory: Directory of the model.
        dtype: Type that it computes in.
        device: Device that it computes on.

    Raises:
        CheckpointError: weights are missing, or do not fit the configuration; the latter when they are first read.
    """
    config = load_config(directory)
    if dtype == torch.float64:
        config._experts_implementation = "eager"  # torch has no grouped product of doubles
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention_of(config), trust_remote_code=False
        )
    stored = _Stored(WeightReader(directory), model)
    for module in list(model.modules()):
        if own := dict(module.named_parameters(recurse=False)):
            stored.check(own)
            module.register_forward_pre_hook(lambda module, _, own=own: stored.load(module, own, dtype, device))
            module.register_forward_hook(lambda module, *_, own=own: module._parameters.update(own))
    _compute_buffers(model, device)
    return model.eval()


class _Stored:
    """The tensors of a checkpoint, by the parameters of the stock module that they belong to."""

    def __init__(self, reader: WeightReader, model: PreTrainedModel) -> None:
        self.reader, self.family = reader, family_of(model.config.model_type)
        self.tied = bool(model.config.tie_word_embeddings)
        self.names = {parameter: self.family.stored_name(name) for name, parameter in model.named_parameters()}

    def pieces(self, parameter: nn.Parameter) -> list[str]:
        """Return the names of the tensors that make up a parameter, in order."""
        unpacked = self.family.unpacked(self.names[parameter], tuple(parameter.shape))
        return [find_source_tensor(self.family, self.reader, name, tied=self.tied) for name in unpacked]

    def check(self, own: dict[str, nn.Parameter]) -> None:
        """Refuse a checkpoint that lacks one of a module's own parameters."""
        for parameter in own.values():
            self.pieces(parameter)

    def load(self, module: nn.Module, own: dict[str, nn.Parameter], dtype: torch.dtype, device: str) -> None:
        """Read a module's own parameters; called right before the module computes."""
        for key, parameter in own.items():
            module._parameters[key] = nn.Parameter(self._read(parameter).to(device, dtype), requires_grad=False)

    def _read(self, parameter: nn.Parameter) -> Tensor:
        pieces = [self.reader.read(name) for name in self.pieces(parameter)]
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        if whole.numel() != parameter.numel():
            raise CheckpointError(
                f"{self.reader.directory}: {self.names[parameter]} has {whole.numel()} elements, but its config.json "
                f"says {tuple(parameter.shape)}. The two do not belong together; fetch the checkpoint again."
            )
        return whole.view(parameter.shape)


def _compute_buffers(model: PreTrainedModel, device: str) -> None:
    """Compute the buffers of a model on the meta device, such as rotary frequencies, from its configuration."""
    for name, module in list(model.named_modules()):
        if any(True for _ in module.buffers(recurse=False)):
            if hasattr(module, "scalar_embed_scale"):  # an embedding that multiplies by the root of its width
                module.embed_scale = torch.tensor(module.scalar_embed_scale, device=device)
            else:
                model.set_submodule(name, type(module)(model.config).to(device))
