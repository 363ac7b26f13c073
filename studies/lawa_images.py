"""LAWA on models of other kinds and real images: a classifier and a diffusion model on scikit-learn's digits.

    python studies/lawa_images.py --task classifier --output outputs/lawa/classifier
    python studies/lawa_images.py --task diffusion --output outputs/lawa/diffusion

Both train at a constant rate with Grow's averaging core beside them (a LAWA window, and the exponential average of the
same mean age) and are measured on held-out images, live and averaged. The last window's checkpoints are written as
files and averaged again by the offline tool, which must give the same bits. figures.json and curves.png are written.

The digits (1,797 images of 8 x 8, from UCI's optical recognition data set) come with scikit-learn.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
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
from grow.averaging.window_figure import draw_curves

HELD_OUT = 597
NOISE = 0.7
TIMESTEPS = 100


def main() -> None:
    """Train over the seeds, compare, draw, and write the figures as JSON."""
    options = read_options()
    torch.set_num_threads(1)
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    runs = [run(options, seed) for seed in range(options.seeds)]
    curves = {name: mean_curve([each[name] for each in runs]) for name in runs[0]}
    draw_curves(curves, output / "curves.png", y_label=TASKS[options.task].measure, title=f"Digits: {options.task}")
    figures = {**vars(options), "curves": curves, "comparison": compare(runs)}
    (output / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    for name, line in figures["comparison"].items():
        print(f"{name:<8}", "  ".join(f"{key} {value}" for key, value in line.items()))
    print(f"Wrote {output / 'figures.json'}, {output / 'curves.png'}; the offline mean equals the run's, bit for bit.")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted(TASKS), required=True)
    parser.add_argument("--output", required=True, help="directory for figures.json and curves.png")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--every", type=int, default=15, help="optimizer steps between two snapshots and measurements")
    return parser.parse_args()


class Classifier(nn.Module):
    """Two convolutions with batch norm and a linear layer; held out: cross-entropy."""

    measure = "held-out cross-entropy (nats)"

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(32 * 16, 10)),
        )

    def loss(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Of (B, 1, 8, 8) images; in training noise is added to them, or so few would be learnt by heart at once."""
        noise = torch.randn(images.shape, generator=generator) if self.training else torch.zeros(())
        return functional.cross_entropy(self.layers(images + NOISE * noise), labels)


class Diffusion(nn.Module):
    """A small noise predictor over a cosine schedule (Ho et al. 2020; Nichol & Dhariwal 2021); held out: its error."""

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
        """Of (B, 1, 8, 8) images with noise and times drawn for them."""
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


def run(options: argparse.Namespace, seed: int) -> dict[str, tuple[list[int], list[float]]]:
    """Train once; name of the weights -> steps and held-out losses."""
    torch.manual_seed(seed)
    model = TASKS[options.task]()
    train, held_out = digits()
    averages = {kind: make_average(options, kind) for kind in ("lawa", "ema")}
    curves: dict[str, tuple[list[int], list[float]]] = {name: ([], []) for name in ("live", *averages)}
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
    settings = AveragingSettings(
        name=kind, kind=kind, k=options.k, every_steps=options.every, min_snapshots=options.k, start_fraction=0.0
    )
    plan = resolve(settings, total_steps=options.steps, tokens_per_step=1, warmup_tokens=0)
    assert plan is not None
    return new_average(plan)


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Images (N, 1, 8, 8) in [-1, 1] and labels (N,), to train on and held out."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    scaled = (torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1)[order]
    kinds = torch.tensor(labels)[order]
    return (scaled[HELD_OUT:], kinds[HELD_OUT:]), (scaled[:HELD_OUT], kinds[:HELD_OUT])


def train_steps(
    model: nn.Module, train: tuple[Tensor, Tensor], options: argparse.Namespace, seed: int
) -> Iterator[int]:
    """Adam at a constant rate on random batches of 32; yields after every step."""
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
    """What has an average: the parameters, and the batch norms' running statistics."""
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def measure(curve: tuple[list[int], list[float]], step: int, model: nn.Module, held_out: tuple[Tensor, Tensor]) -> None:
    """Append the held-out loss, under noise that is always the same."""
    model.eval()
    with torch.no_grad():
        curve[0].append(step)
        curve[1].append(float(model.loss(*held_out, torch.Generator().manual_seed(1))))


def check_offline(last: list[dict[str, Tensor]], lawa: Average, options: argparse.Namespace) -> None:
    """Average the last window's checkpoints from files; it has to be what the run has.

    Raises:
        AssertionError: it is not.
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


def mean_curve(curves: list[tuple[list[int], list[float]]]) -> tuple[list[int], list[float]]:
    """Over the seeds, which measured at the same steps."""
    return curves[0][0], [statistics.mean(values) for values in zip(*(losses for _, losses in curves), strict=True)]


def compare(runs: list[dict[str, tuple[list[int], list[float]]]]) -> dict[str, dict[str, float | str]]:
    """Held-out loss a third of the way, two thirds, and at the end; and how often the average was below live."""

    def at(name: str, place: Callable[[list[int]], int]) -> float:
        return round(statistics.mean(each[name][1][place(each[name][0])] for each in runs), 5)

    return {
        name: {
            "at 1/3": at(name, lambda steps: nearest(steps, runs[0]["live"][0][-1] / 3)),
            "at 2/3": at(name, lambda steps: nearest(steps, runs[0]["live"][0][-1] * 2 / 3)),
            "end": at(name, lambda steps: -1),
            "below live": f"{sum(below(each, name) for each in runs)}/{sum(len(each[name][0]) for each in runs)}",
        }
        for name in runs[0]
    }


def nearest(steps: list[int], wanted: float) -> int:
    return min(range(len(steps)), key=lambda index: abs(steps[index] - wanted))


def below(curves: dict[str, tuple[list[int], list[float]]], name: str) -> int:
    live = dict(zip(*curves["live"], strict=True))
    return sum(loss < live[step] for step, loss in zip(*curves[name], strict=True))


if __name__ == "__main__":
    main()
