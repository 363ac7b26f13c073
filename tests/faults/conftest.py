"""A stored model to damage, and how long hypothesis looks for faults.

GROW_FUZZ=long runs every fuzz test for ten times the examples, others each time; repeat it for as long as you like:
GROW_FUZZ=long python -m pytest tests/faults -k fuzz.
"""

import os
import shutil

import pytest
import torch
from hypothesis import HealthCheck, settings
from transformers import LlamaConfig

from tests.growth.cases import VOCABULARY, make_source

_SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("ci", max_examples=100, deadline=None, suppress_health_check=_SLOW_IS_FINE, derandomize=True)
settings.register_profile("long", max_examples=1_000, deadline=None, suppress_health_check=_SLOW_IS_FINE)
settings.load_profile(os.environ.get("GROW_FUZZ", "ci"))

CONFIG = LlamaConfig(
    vocab_size=VOCABULARY,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=32,
)


@pytest.fixture(scope="session")
def stored_model(tmp_path_factory):
    return make_source(CONFIG, tmp_path_factory.mktemp("model") / "source", dtype=torch.float32).directory


@pytest.fixture
def source(stored_model, tmp_path):
    """A copy of the stored model, alone in its folder, to damage."""
    return shutil.copytree(stored_model, tmp_path / "models" / "source")
