"""Fixtures of the evaluation's tests: made-up items, a tokenizer and a model, made once."""

import pytest
import torch

from grow.evaluation.data import EvaluationData
from tests.evaluation.made import make_items, make_model, make_tokenizer


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def items(tmp_path_factory) -> EvaluationData:
    return make_items(tmp_path_factory.mktemp("items"))


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def model():
    """A random Llama, which tests must not change."""
    return make_model("llama")
