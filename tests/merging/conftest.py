"""Two models of a few thousand weights tuned from one base, as directories."""

import pytest
import torch

from grow.cli.config import compose
from grow.families.build import load_model, model_from_noise
from grow.families.registry import stock_config


@pytest.fixture(scope="session")
def directories(tmp_path_factory):
    """(base, tuned) directories of a tiny model, and a tuned one whose linear deltas have rank 2."""
    root = tmp_path_factory.mktemp("models")
    model_settings = compose(["model=tiny", "model.vocab_size=300", "model.layers=1"]).model
    model = model_from_noise(stock_config(model_settings), 0)
    model.save_pretrained(root / "base")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
                continue
            rows, columns = parameter.shape
            left, right = torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
            parameter += 0.005 * left @ right
    model.save_pretrained(root / "tuned")
    assert load_model(root / "tuned") is not None
    return root / "base", root / "tuned"
