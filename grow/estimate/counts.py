"""Counts the parameters and FLOPs of an architecture on the meta device: nothing is allocated."""

from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedConfig

from grow.estimate.closed_form import Counts
from grow.families.build import LINEAR, decoder_blocks, model_on_meta, parameter_count, training_flops_per_token
from grow.families.registry import family_of


def count(config: PreTrainedConfig, sequence_length: int) -> Counts:
    """Count an architecture.

    Args:
        config: Stock configuration of the model.
        sequence_length: Tokens of one sequence, on which the FLOPs of attention depend.
    """
    model = model_on_meta(config)
    sizes = family_of(config.model_type).sizes(config)
    _, blocks = decoder_blocks(model)
    head, tables = model.get_output_embeddings().weight, _weights(model, nn.Embedding)
    return Counts(
        family=config.model_type,
        parameters=parameter_count(model),
        embedding=sum(table.numel() for table in tables),
        head=0 if any(table is head for table in tables) else head.numel(),
        block=max(parameter_count(block) for block in blocks),
        linear=sum(weight.numel() for weight in _weights(blocks, LINEAR)),
        flops_per_token=training_flops_per_token(model, sequence_length),
        layers=sizes["layers"],
        embed=sizes["embed"],
        queries=sizes["heads"] * sizes["head_dim"],
        keys=sizes["kv_heads"] * sizes["head_dim"],
        heads=sizes["heads"],
        ffn=sizes["ffn"],
        vocabulary=sizes["vocab"],
        dropout=getattr(config, "dropout", 0) > 0,
    )


def _weights(module: nn.Module, kind: type[nn.Module] | tuple[type[nn.Module], ...]) -> list[Tensor]:
    return [cast(Tensor, part.weight) for part in module.modules() if isinstance(part, kind)]
