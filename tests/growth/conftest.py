"""Stored source models, one of each layout; norms, routers and attention keep the precision of their input."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

from grow.families.registry import FAMILIES
from tests.growth.cases import LAYOUTS, Source, make_source


def _rms_norm(self, x):
    eps = getattr(self, "variance_epsilon", None) or self.eps
    gain = 1 + self.weight if type(self).__name__.startswith("Gemma") else self.weight
    return gain * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def _layer_norm(self, x):
    return functional.layer_norm(x, self.normalized_shape, None, None, eps=1e-5)


def _route(self, x):
    logits = functional.linear(x.reshape(-1, self.hidden_dim), self.weight)
    best, chosen = torch.topk(logits.softmax(-1), self.top_k, dim=-1)
    renormalised = getattr(self, "norm_topk_prob", True)
    return logits, best / best.sum(-1, keepdim=True) if renormalised else best, chosen


def _embed(self, ids):
    return functional.embedding(ids, self.weight) * self.scalar_embed_scale


def _softmax(scores, dim=-1, dtype=None):
    """Softmax in the precision of the scores, where attention that is computed eagerly asks for float32."""
    return torch.softmax(scores, dim)


_EXACT = {"RMSNorm": _rms_norm, "OlmoLayerNorm": _layer_norm, "TopKRouter": _route, "ScaledWordEmbedding": _embed}


@pytest.fixture(scope="session")
def rounding_modules():
    """The stock norms, routers and scaled embeddings of every family, which round to float32 inside."""
    modules = {sys.modules[AutoModelForCausalLM._model_mapping[config].__module__] for config in _config_classes()}
    return [
        (kind, exact)
        for module in modules
        for name, kind in vars(module).items()
        for ending, exact in _EXACT.items()
        if isinstance(kind, type) and issubclass(kind, nn.Module) and name.endswith(ending)
    ]


def _config_classes():
    import transformers

    return [getattr(transformers, family.config_class) for family in FAMILIES.values()]


@pytest.fixture(autouse=True)
def exact_norms(monkeypatch, rounding_modules):
    """Look past that rounding."""
    for kind, exact in rounding_modules:
        monkeypatch.setattr(kind, "forward", exact)
    monkeypatch.setattr(functional, "softmax", _softmax)


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Source(name): a stored random model, made once."""
    made: dict[str, Source] = {}

    def get(name: str) -> Source:
        if name not in made:
            made[name] = make_source(LAYOUTS[name], tmp_path_factory.mktemp("sources") / name)
        return made[name]

    return get
