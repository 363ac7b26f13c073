"""The W&B report, built and read back without a network: its tables, its run sets and its axes."""

import json
import socket
from pathlib import Path

import pytest

from grow.cli.config import compose
from grow.common.errors import ConfigError
from grow.report.publish import as_markdown
from grow.report.settings import WandbReportConfig
from grow.report.verdict import judge
from scripts import wandb_report

workspaces = pytest.importorskip("wandb_workspaces.reports.v2")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the report must be built without a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(workspaces.interface, "_get_api", refuse)


@pytest.fixture
def written(three_roles, tmp_path, make_run, source, capsys):
    """The file that the command writes of two grown seeds, not logged to W&B, and both baselines, which were logged."""
    run = make_run("grown-1", [5.0, 4.5, 4.0, 3.9, 3.8], growth="hyperclone_noisy", source=source, seed=1)
    three_roles["runs"].append(str(run))
    for directory, run_id in ((three_roles["baseline"][0], "aaaa"), (three_roles["continued"][0], "bbbb")):
        (Path(directory) / "wandb.json").write_text(json.dumps({"id": run_id}))
    listed = [f"{role}=[{','.join(directories)}]" for role, directories in three_roles.items()]
    overrides = [*listed, f"output={tmp_path}/sub/report.json", "project=mine", "title=Growing"]
    wandb_report.main.__wrapped__(compose(overrides, "wandb_report", WandbReportConfig))
    return json.loads((tmp_path / "sub" / "report.json").read_text()), judge(**three_roles), capsys.readouterr().out


def assert_kept(sent, read):
    """Assert that all that was sent is in what was read; the schema may add its defaults."""
    if isinstance(sent, dict):
        assert sent.keys() <= read.keys()
        for key in sent:
            assert_kept(sent[key], read[key])
    elif isinstance(sent, list):
        assert len(sent) == len(read)
        for pair in zip(sent, read, strict=True):
            assert_kept(*pair)
    else:
        assert sent == read


def blocks(content, kind):
    return [block for block in content["spec"]["blocks"] if block["type"] == kind]


def test_the_file_is_what_wandbs_own_schema_reads_back(written):
    content, _, _ = written
    spec = workspaces.internal.Spec.model_validate(content["spec"])
    assert_kept(content["spec"], json.loads(spec.model_dump_json(by_alias=True, exclude_none=True)))
    assert (content["displayName"], content["projectName"], content["entityName"]) == ("Growing", "mine", "")


def test_the_tables_are_those_of_the_report(written):
    content, verdict, _ = written
    (markdown,) = blocks(content, "markdown-block")
    assert markdown["content"] == as_markdown(verdict)
    assert "2.00x, saves 50%" in markdown["content"]


def test_every_arm_is_a_set_of_its_own_runs_and_seeds_are_one_line(written):
    content, _, _ = written
    (grid,) = blocks(content, "panel-grid")
    sets = {found["name"]: found for found in grid["metadata"]["runSets"]}
    assert list(sets) == ["from noise", "source trained further", "hyperclone_noisy"]
    filters = {name: found["filters"]["filters"][0] for name, found in sets.items()}
    assert (filters["from noise"]["key"]["name"], filters["from noise"]["value"]) == ("name", ["aaaa"])
    assert filters["hyperclone_noisy"]["key"]["name"] == "displayName"  # never logged: by name
    assert filters["hyperclone_noisy"]["value"] == ["grown", "grown-1"]
    grouping = {name: [key["name"] for key in found["grouping"]] for name, found in sets.items()}
    assert grouping == {"from noise": [], "source trained further": [], "hyperclone_noisy": ["group"]}


def test_loss_stands_over_tokens_flops_and_seconds(written):
    content, _, _ = written
    (grid,) = blocks(content, "panel-grid")
    panels = [panel["config"] for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]]
    axes = {(panel["metrics"][0], panel["xAxis"]) for panel in panels}
    assert {("val/loss", "train/tokens"), ("val/loss", "flops"), ("val/loss", "seconds")} <= axes
    assert ("train/loss", "train/tokens") in axes
    places = [panel["layout"] for panel in grid["metadata"]["panelBankSectionConfig"]["panels"]]
    assert len({(place["x"], place["y"]) for place in places}) == len(places)


def test_runs_that_were_never_logged_are_named(written):
    assert [line.split()[1] for line in written[2].splitlines() if "not logged" in line] == ["grown", "grown-1"]


def test_publishing_without_a_login_is_one_paragraph(three_roles, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    config = WandbReportConfig(**three_roles, publish=True)
    with pytest.raises(ConfigError, match="no API key was found"):
        wandb_report.main.__wrapped__(config)


def test_a_report_that_goes_nowhere_is_refused(three_roles):
    with pytest.raises(ConfigError, match="output=FILE, publish=true"):
        WandbReportConfig(**three_roles)
