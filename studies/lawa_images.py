"""LAWA on models of other kinds and real images: a classifier and a diffusion model on scikit-learn's digits.

    python -m studies.lawa_images --task classifier --output outputs/lawa/classifier
    python -m studies.lawa_images --task diffusion --output outputs/lawa/diffusion

Both train at a constant rate, with two of Grow's averages of their weights (a LAWA window, and the exponential average
of the same mean age), and are measured on held-out images, live and averaged. The last window's checkpoints are written
as files and averaged again by the offline tool, which must give the same bits. figures.json and curves.png are written.

The digits (1,797 images of 8 x 8, from UCI's optical recognition data set) come with scikit-learn.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from grow.cli.closed_pipe import ends_with_its_reader

if TYPE_CHECKING:
    from studies.digit_models import Curve


@ends_with_its_reader()
def main() -> None:
    """Train over the seeds, compare, draw, and write the figures as JSON."""
    options = read_options()
    # Heavy imports wait until here, so that help and mistakes answer at once.
    import torch

    from grow.averaging.window_figure import draw_curves
    from studies.digit_models import TASKS, train_with_averages

    torch.set_num_threads(1)
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    runs = [train_with_averages(options, seed) for seed in range(options.seeds)]
    curves = {name: mean_curve([each[name] for each in runs]) for name in runs[0]}
    draw_curves(curves, output / "curves.png", y_label=TASKS[options.task].measure, title=f"Digits: {options.task}")
    figures = {**vars(options), "curves": curves, "comparison": compare(runs)}
    (output / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    for name, line in figures["comparison"].items():
        print(f"{name:<8}", "  ".join(f"{key} {value}" for key, value in line.items()))
    print(f"Wrote {output / 'figures.json'}, {output / 'curves.png'}; the offline mean equals the run's, bit for bit.")


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["classifier", "diffusion"], required=True)
    parser.add_argument("--output", required=True, help="directory for figures.json and curves.png")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--k", type=int, default=5, help="snapshots of the LAWA window")
    parser.add_argument("--every", type=int, default=15, help="optimizer steps between two snapshots and measurements")
    return parser.parse_args()


def mean_curve(curves: "list[Curve]") -> "Curve":
    """Return the mean over the seeds, which measured at the same steps."""
    return curves[0][0], [statistics.mean(values) for values in zip(*(losses for _, losses in curves), strict=True)]


def compare(runs: "list[dict[str, Curve]]") -> dict[str, dict[str, float | str]]:
    """Return the held-out loss after one third, two thirds and all of the steps, and how often it was below live."""

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
    """Return the index of the step that is nearest to the one wanted."""
    return min(range(len(steps)), key=lambda index: abs(steps[index] - wanted))


def below(curves: "dict[str, Curve]", name: str) -> int:
    """Return how many of a curve's losses are below the live weights' at the same step."""
    live = dict(zip(*curves["live"], strict=True))
    return sum(loss < live[step] for step, loss in zip(*curves[name], strict=True))


if __name__ == "__main__":
    main()
