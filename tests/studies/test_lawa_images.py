"""The stand-alone examples on real images run, and find what they promise to check: the offline mean is the run's."""

import json
import sys

import pytest

from studies import digit_models, lawa_images


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classifier", "diffusion"])
def test_an_example_trains_compares_and_draws(tmp_path, monkeypatch, capsys, task):
    line = ["lawa_images.py", "--task", task, "--steps", "40", "--every", "5", "--k", "3", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", [*line, "--output", str(tmp_path)])
    lawa_images.main()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [len(figures["curves"][name][0]) for name in ("live", "lawa", "ema")] == [8, 6, 6]
    assert figures["curves"]["live"][1][-1] < figures["curves"]["live"][1][0]
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert "bit for bit" in capsys.readouterr().out


@pytest.mark.parametrize("task", ["classifier", "diffusion"])
def test_the_check_that_an_example_makes_would_see_a_mean_that_is_not_the_runs(task):
    options = type("Options", (), {"task": task, "k": 3, "every": 5, "steps": 40})
    lawa, model = digit_models.make_average(options, "lawa"), digit_models.TASKS[task]()
    kept = []
    for step in (5, 10, 15):
        lawa.push(step, digit_models.floating(model))
        kept.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    digit_models.check_offline(kept, lawa, options)
    next(iter(kept[1].values())).add_(1e-3)
    with pytest.raises(AssertionError):
        digit_models.check_offline(kept, lawa, options)
