"""Files of tensors to merge."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def write_models(directory: Path, models: list[Tensors]) -> list[str]:
    """Write each model's tensors in a file of their own, named by its place, and return the files."""
    directory.mkdir(exist_ok=True)
    paths = [str(directory / f"{place}.safetensors") for place in range(len(models))]
    for path, tensors in zip(paths, models, strict=True):
        save_file(tensors, path)
    return paths


def load_all(directory: Path) -> Tensors:
    """Return the tensors of all weight files of a directory."""
    return {
        name: tensor for path in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(path).items()
    }
