"""Stored source models, one of each layout, and norms and routers that keep the precision of their input."""

import pytest
import torch
from torch.nn import functional
from transformers.models.flex_olmo.modeling_flex_olmo import FlexOlmoRMSNorm, FlexOlmoTopKRouter
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mixtral.modeling_mixtral import MixtralRMSNorm, MixtralTopKRouter
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

from tests.growth.cases import CONFIGS, Source, make_source


@pytest.fixture(autouse=True)
def exact_norms(monkeypatch):
    """The stock norms and routers round to float32 inside; the tests look past that rounding."""

    def rms_norm(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def layer_norm(self, x):
        return functional.layer_norm(x, self.normalized_shape, None, None, eps=1e-5)

    def route(self, x):
        logits = functional.linear(x.reshape(-1, self.hidden_dim), self.weight)
        best, chosen = torch.topk(logits.softmax(-1), self.top_k, dim=-1)
        renormalised = getattr(self, "norm_topk_prob", True)
        return logits, best / best.sum(-1, keepdim=True) if renormalised else best, chosen

    for norm in (LlamaRMSNorm, Olmo2RMSNorm, MixtralRMSNorm, FlexOlmoRMSNorm):
        monkeypatch.setattr(norm, "forward", rms_norm)
    for router in (MixtralTopKRouter, FlexOlmoTopKRouter):
        monkeypatch.setattr(router, "forward", route)
    monkeypatch.setattr(OlmoLayerNorm, "forward", layer_norm)


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Source(name): a stored random model, made once."""
    made: dict[str, Source] = {}

    def get(name: str) -> Source:
        if name not in made:
            made[name] = make_source(CONFIGS[name], tmp_path_factory.mktemp("sources") / name)
        return made[name]

    return get
