"""Made-up run directories for the tests of the report: the files of train.py, with known curves."""

import json

import pytest

FLOPS_PER_TOKEN = 600
SOURCE = {"source": "outputs/small/model", "digest": "d1", "tokens": 500, "flops": 150_000, "seconds": 2.0}


def _write_run(
    directory,
    losses,
    *,
    growth=None,
    source=None,
    seed=0,
    every=1000,
    config=None,
    averaged=None,
    slower=1.0,
    **changes,
):
    """Write a run that was validated every `every` tokens.

    Args:
        directory: run directory to make.
        losses: loss of each validation.
        growth: name of the growth; None: from noise.
        source: lineage of the source.
        seed: seed of the run.
        every: tokens between validations.
        config: keys of the config to replace.
        averaged: losses of the averaged weights at the last validations.
        slower: seconds a token, relative to other runs.
        changes: keys of run.json to replace.
    """
    directory.mkdir(parents=True)
    rows = [
        {"step": 10 * index, "tokens": every * index, "flops": FLOPS_PER_TOKEN * every * index,
         "seconds": 0.01 * slower * every * index, "val/loss": loss}
        for index, loss in enumerate(losses)
    ]  # fmt: skip
    for row, loss in zip(reversed(rows), reversed(averaged or []), strict=False):
        row["val_avg/loss"] = loss
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model": {"name": "tiny_2x", "embed": 256},
        "growth": growth and {"name": growth, "seed": seed, "source": f"outputs/small-{seed}/model"},
        "data": {"name": "english"},
        "optimizer": {"name": "adamw", "lr": 0.001},
        "schedule": {"name": "paper"},
        "trainer": {"max_tokens": rows[-1]["tokens"], "tokens_per_step": every // 10, "val_tokens": 512},
        "seed": seed,
        "run_dir": str(directory),
    }
    content = {
        "name": directory.name,
        "config": settings | (config or {}),
        "versions": {"python": "3.11", "torch": "2.11"},
        "git_commit": "0123456789abcdef",
        "model": {"parameters": 100, "flops_per_token": FLOPS_PER_TOKEN, "sequence_length": 128},
        "lineage": source,
    }
    (directory / "run.json").write_text(json.dumps(content | changes))
    return directory


@pytest.fixture
def make_run(tmp_path):
    """Return a function that writes a run into a folder of this name and returns its path."""
    return lambda folder, losses, **changes: _write_run(tmp_path / folder, losses, **changes)


@pytest.fixture
def source():
    """The lineage of a run that grew from a source whose cost was recorded."""
    return dict(SOURCE)


@pytest.fixture
def unknown_source():
    """The lineage of a run that grew from a source whose cost nobody recorded."""
    return SOURCE | {"tokens": None, "flops": None, "seconds": None}


@pytest.fixture
def three_roles(make_run, source):
    """A baseline that reaches 4.0 after 4000 tokens, a grown run that needs 2000, and the source trained further."""
    check = {"preserved": True, "max_abs_logit_diff": 1e-6, "logit_scale": 1.0, "kl": 0.0, "loss_before": 5.0}
    grown = make_run("grown", [5.0, 4.5, 4.0, 3.8, 3.7], growth="hyperclone_noisy", source=source)
    (grown / "growth.json").write_text(json.dumps(check))
    return {
        "runs": [str(grown)],
        "baseline": [str(make_run("noise", [8.0, 6.0, 5.0, 4.5, 4.0]))],
        "continued": [str(make_run("continued", [5.0, 4.6, 4.3, 4.1, 3.9], growth="identity", source=source))],
    }
