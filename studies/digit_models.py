"""The classifier and the diffusion model of studies/lawa_images.py, trained on scikit-learn's digits with averages."""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from grow.averaging.average import Average, new_average
from grow.averaging.cadence import resolve
from grow.averaging.offline import average_checkpoints
from grow.averaging.settings import AveragingSettings
from grow.averaging.swap import averaged

HELD_OUT = 597
NOISE = 0.7
TIMESTEPS = 100

Curve = tuple[list[int], list[float]]
"""Steps, and the held-out loss at each of them."""


class Classifier(nn.Module):
    """Two convolutions with batch norm and a linear layer. Its held-out loss is the cross-entropy."""

    measure = "held-out cross-entropy (nats)"

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * 16, 10)),
        )

    def loss(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of (B, 1, 8, 8) images; training adds noise, or so few would be learnt by heart at once."""
        noise = torch.randn(images.shape, generator=generator) if self.training else torch.zeros(())
        return functional.cross_entropy(self.layers(images + NOISE * noise), labels)


class Diffusion(nn.Module):
    """A small noise predictor over a cosine schedule (Ho et al. 2020; Nichol & Dhariwal 2021).

    Its held-out loss is the mean square error of the noise that it predicts.
    """

    measure = "held-out noise prediction error (mean square)"

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.time = nn.Embedding(TIMESTEPS, width)
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1, stride=2))
        self.middle = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.last = nn.Sequential(nn.GroupNorm(8, 2 * width), nn.SiLU(), nn.Conv2d(2 * width, 1, 3, padding=1))
        share = torch.cos(torch.linspace(0, 1, TIMESTEPS + 1)[1:] * torch.pi / 2).square()
        self.register_buffer("signal", share.clamp(1e-4), persistent=False)

    def loss(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of (B, 1, 8, 8) images with noise and times drawn for them."""
        times = torch.randint(TIMESTEPS, (len(images),), generator=generator)
        noise = torch.randn(images.shape, generator=generator)
        signal = self.signal[times][:, None, None, None]
        return functional.mse_loss(self(signal.sqrt() * images + (1 - signal).sqrt() * noise, times), noise)

    def forward(self, noisy: Tensor, times: Tensor) -> Tensor:
        first = self.first(noisy) + self.time(times)[:, :, None, None]  # (B, width, 8, 8)
        below = self.down(first)  # (B, width, 4, 4)
        below = functional.interpolate(below + self.middle(below), scale_factor=2)
        return self.last(torch.cat((first, below), 1))


TASKS = {"classifier": Classifier, "diffusion": Diffusion}


def train_with_averages(options: argparse.Namespace, seed: int) -> dict[str, Curve]:
    """Train once with a LAWA window and an exponential average; return a curve for live, lawa and ema.

    Raises:
        AssertionError: the offline tool's mean of the last window is not the run's.
    """
    torch.manual_seed(seed)
    model = TASKS[options.task]()
    train, held_out = digits()
    averages = {kind: make_average(options, kind) for kind in ("lawa", "ema")}
    curves: dict[str, Curve] = {name: ([], []) for name in ("live", *averages)}
    last: list[dict[str, Tensor]] = []
    for step in train_steps(model, train, options, seed):
        if not averages["lawa"].plan.due(step):
            continue
        weights = floating(model)
        last = [*last[1 - options.k :], {name: tensor.clone() for name, tensor in model.state_dict().items()}]
        measure(curves["live"], step, model, held_out)
        for kind, average in averages.items():
            average.push(step, weights)
            if average.ready:
                with averaged(weights, average.mean()):
                    measure(curves[kind], step, model, held_out)
    check_offline(last, averages["lawa"], options)
    return curves


def make_average(options: argparse.Namespace, kind: str) -> Average:
    """Return an empty average of a kind, lawa or ema."""
    settings = AveragingSettings(
        name=kind, kind=kind, k=options.k, every_steps=options.every, min_snapshots=options.k, start_fraction=0.0
    )
    plan = resolve(settings, total_steps=options.steps, tokens_per_step=1, warmup_tokens=0)
    assert plan is not None
    return new_average(plan)


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return images (N, 1, 8, 8) in [-1, 1] and labels (N,): those to train on, and those held out."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    scaled = (torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1)[order]
    kinds = torch.tensor(labels)[order]
    return (scaled[HELD_OUT:], kinds[HELD_OUT:]), (scaled[:HELD_OUT], kinds[:HELD_OUT])


def train_steps(
    model: nn.Module, train: tuple[Tensor, Tensor], options: argparse.Namespace, seed: int
) -> Iterator[int]:
    """Train with Adam at a constant rate on random batches of 32; yield the number of each step once it is done."""
    images, labels = train
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, options.steps + 1):
        model.train()
        chosen = torch.randint(len(images), (32,), generator=generator)
        model.loss(images[chosen], labels[chosen], generator).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield step


def floating(model: nn.Module) -> dict[str, Tensor]:
    """Return what has an average: the parameters, and the batch norms' running statistics."""
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def measure(curve: Curve, step: int, model: nn.Module, held_out: tuple[Tensor, Tensor]) -> None:
    """Append the held-out loss to a curve, under noise that is always the same."""
    model.eval()
    with torch.no_grad():
        curve[0].append(step)
        curve[1].append(float(model.loss(*held_out, torch.Generator().manual_seed(1))))


def check_offline(last: list[dict[str, Tensor]], lawa: Average, options: argparse.Namespace) -> None:
    """Average the last window's checkpoints from files, and compare with the run's own mean.

    Raises:
        AssertionError: the two are not bit-equal.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / f"step-{step}.safetensors" for step in lawa.steps]
        for file, weights in zip(files, last, strict=True):
            save_file(weights, file)
        settings = AveragingSettings(name="lawa", kind="lawa", k=options.k)
        average_checkpoints([str(file) for file in files], settings, Path(scratch) / "average")
        offline = load_file(Path(scratch) / "average" / "model.safetensors")
    assert all(torch.equal(offline[name], tensor) for name, tensor in lawa.mean().items())
    TASKS[options.task]().load_state_dict(offline)
