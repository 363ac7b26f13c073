"""Weights that walk at random, and plans to average them by."""

import pytest
import torch

from grow.averaging.cadence import AveragingPlan, resolve
from grow.averaging.settings import AveragingSettings


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make_plan(kind: str = "lawa", *, total_steps: int = 10_000, **keys) -> AveragingPlan:
    keys = {"every_steps": 1, "start_fraction": 0.0, **({"k": 5} if kind in ("lawa", "wsm", "ema") else {}), **keys}
    if kind == "wsm":
        keys.setdefault("curve", "minus_sqrt")
    settings = AveragingSettings(name=kind, kind=kind, **keys)
    return resolve(settings, total_steps=total_steps, tokens_per_step=1, warmup_tokens=0)


def walk(steps: int, seed: int = 0, scale: float = 1.0) -> list[dict[str, torch.Tensor]]:
    """A random walk of two weights, one of them longer than a chunk."""
    generator = torch.Generator().manual_seed(seed)
    weights = {"matrix": torch.randn(30, 50, generator=generator), "bias": torch.randn(7, generator=generator)}
    path = []
    for _ in range(steps):
        weights = {n: t + scale * 0.1 * torch.randn(t.shape, generator=generator) for n, t in weights.items()}
        path.append(weights)
    return path


def reference_mean(snapshots: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """R of the papers' tests: float64 sum, oldest first, divided by the count, rounded once to float32."""
    mean = {}
    for name in snapshots[0]:
        total = torch.zeros(snapshots[0][name].shape, dtype=torch.float64)
        for snapshot in snapshots:
            total = total + snapshot[name].to(torch.float64)
        mean[name] = (total / len(snapshots)).to(torch.float32)
    return mean


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
