"""What tuning added to the matrices of a base, as a LoRA: the truncated singular value decomposition of each delta.

    W - W_0 = U S V^T,   B = U_r sqrt(S_r),   A = sqrt(S_r) V_r^T,   |W - W_0 - B A| = sqrt(sum of the dropped S^2)

No product of rank r is nearer (Eckart and Young 1936). The directory is what peft's `PeftModel.from_pretrained` loads.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from grow.averaging.offline import common_tensors
from grow.averaging.sources import Source, open_model
from grow.common.errors import CheckpointError
from grow.common.files import new_directory
from grow.common.provenance import digest_files, write_json, write_record
from grow.families.build import load_config, model_on_meta
from grow.families.registry import family_of
from grow.families.tensor_file import TensorInfo
from grow.families.weights import write_file
from grow.merging.survey import read_finite

ADAPTER_FILE, ADAPTER_CONFIG, EXTRACTION_FILE = "adapter_model.safetensors", "adapter_config.json", "extraction.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixError:
    """What a LoRA leaves of one matrix's delta."""

    tensor: str
    delta: float
    """Norm of the delta."""
    error: float
    """Norm of what the LoRA does not hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extraction:
    """A LoRA that was written, what it lost, and what it cannot hold."""

    matrices: list[MatrixError]
    others: dict[str, float]
    """Norm of the delta of each tensor that no LoRA holds: norms, embeddings, biases, experts' packed matrices."""


def extract_lora(base: str, model: str, rank: int, output: Path) -> Extraction:
    """Write the delta of a tuned model as a LoRA into a new directory. Memory holds one matrix at a time.

    Args:
        base: Model that the other was tuned from.
        model: The tuned model.
        rank: Rank of every matrix's LoRA; where a matrix has a smaller one, the rest is zero.
        output: Directory to make.

    Raises:
        CheckpointError: a model is missing or damaged, the two do not belong together, or nothing differs.
    """
    origin, tuned = open_model(base), open_model(model)
    tensors = {info.name: info for info in common_tensors([tuned, origin], any_dtype=True)}
    modules = _linear_modules(origin)
    held = {tensor: module for tensor, module in modules.items() if tensor in tensors}
    others = {name: _norm(_delta(info, origin, tuned)) for name, info in tensors.items() if name not in held}
    errors: list[MatrixError] = []

    def factors() -> Iterator[Tensor]:
        for tensor in held:
            delta = _delta(tensors[tensor], origin, tuned)
            a, b, error = truncated(delta, rank)
            errors.append(MatrixError(tensor=tensor, delta=_norm(delta), error=error))
            yield from (a, b)

    infos = [info for tensor, module in held.items() for info in _infos(tensors[tensor], module, rank)]
    with new_directory(output, sum(info.bytes for info in infos)) as partial:
        write_file(partial / ADAPTER_FILE, infos, factors())
        write_json(partial / ADAPTER_CONFIG, _adapter_config(base, rank, list(held.values())))
        if not any(each.delta for each in errors):
            raise CheckpointError(f"{base} and {model}: no matrix differs; there is nothing to extract.")
        write_record(
            partial / EXTRACTION_FILE,
            {
                "base": {"source": base, "digest": digest_files(origin.reader.files)},
                "model": {"source": model, "digest": digest_files(tuned.reader.files)},
                "errors": {each.tensor: each.error for each in errors},
                "not_held": others,
            },
        )
    return Extraction(matrices=errors, others=others)


def truncated(delta: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Return A (rank, in), B (out, rank) and the norm of what B A does not hold, for a float64 delta (out, in)."""
    left, values, right = torch.linalg.svd(delta, full_matrices=False)
    roots = values[:rank].sqrt()
    missing = max(rank - len(values), 0)
    a = nn.functional.pad(roots[:, None] * right[:rank], (0, 0, 0, missing))
    b = nn.functional.pad(left[:, :rank] * roots, (0, missing))
    return a, b, float(values[rank:].square().sum().sqrt())


def _linear_modules(base: Source) -> dict[str, str]:
    """Return the stored name of each linear module's weight -> the module's name in the stock model."""
    if base.directory is None:
        raise CheckpointError(
            f"{base.label}: expected a model directory with config.json, which names the modules that a LoRA is put "
            "on; found a file of weights."
        )
    config = load_config(base.directory)
    family, model = family_of(config.model_type), model_on_meta(config)
    head = model.get_output_embeddings() if config.tie_word_embeddings else None
    return {
        family.stored_name(f"{name}.weight"): name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def _delta(info: TensorInfo, base: Source, tuned: Source) -> Tensor:
    """Return the whole delta of a tensor in float64."""
    origin, other = read_finite(info.name, slice(0, prod(info.shape)), [tuned], base)
    return other.sub_(origin).view(info.shape)


def _norm(values: Tensor) -> float:
    return math.sqrt(float(values.square().sum()))


def _infos(info: TensorInfo, module: str, rank: int) -> list[TensorInfo]:
    rows, columns = info.shape
    shapes = {"A": (rank, columns), "B": (rows, rank)}
    return [
        TensorInfo(name=f"base_model.model.{module}.lora_{factor}.weight", shape=shape, dtype=torch.float32)
        for factor, shape in shapes.items()
    ]


def _adapter_config(base: str, rank: int, modules: list[str]) -> dict[str, object]:
    """Return the content of adapter_config.json; lora_alpha equal to the rank makes peft's factor 1."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": modules,
    }
