"""The links of a chain as one curve: each begins at the tokens and FLOPs at which the one before it ended."""

import json

import pytest

from grow.common.errors import CheckpointError
from grow.report.chain_report import report_chain
from grow.report.settings import ReportConfig

TRAINS = {"trainable": {"name": "all"}}


def lineage(tokens, flops, seconds):
    return {"source": "the link before", "digest": "d", "tokens": tokens, "flops": flops, "seconds": seconds}


def settings(layers):
    return {**TRAINS, "model": {"name": "tiny", "layers": layers, "embed": 128}}


@pytest.fixture
def links(make_run):
    return [
        str(make_run("01_half", [8.0, 6.0, 5.0], config=settings(2))),
        str(make_run("02_whole", [5.1, 4.4, 4.0], growth="identity", config=settings(4), source=lineage(2000, 9e5, 9))),
    ]


def test_costs_add_up_from_link_to_link_and_the_last_is_judged_by_the_whole_chains_cost(links, make_run, tmp_path):
    noise = str(make_run("noise", [8.0, 7.0, 6.5, 6.0, 4.5, 4.0], config=settings(4)))
    paths = report_chain("mine", ReportConfig(runs=links, baseline=noise, output=str(tmp_path / "report")))
    assert all(path.stat().st_size > 0 for path in paths)
    first, second = json.loads((tmp_path / "report" / "chain.json").read_text())
    assert first["tokens"] + second["tokens"] == [0, 1000, 2000, 2000, 3000, 4000]
    assert second["flops"] == [900_000, 1_500_000, 2_100_000]
    assert (
        "| 02_whole | 4 x 128 | all | 5.1000 | 4.0000 | 4k tokens |" in (tmp_path / "report" / "chain.md").read_text()
    )
    (arm,) = json.loads((tmp_path / "report" / "speedup.json").read_text())["arms"]
    assert arm["label"] == "mine"
    assert arm["speedup"]["tokens"]["I"]["speedup"] == pytest.approx(5000 / 4000)


def test_a_run_whose_source_cost_is_unknown_is_refused_as_a_link(links, make_run, unknown_source, tmp_path):
    stray = str(make_run("stray", [5.0, 4.0], growth="identity", config=settings(4), source=unknown_source))
    with pytest.raises(CheckpointError, match="cannot be part of a chain"):
        report_chain("mine", ReportConfig(runs=[links[0], stray], output=str(tmp_path / "report")))
