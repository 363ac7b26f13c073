"""Results that could not be written are refused before anything is computed; what is only read may be read-only."""

import os
from types import SimpleNamespace

import pytest

from grow.analysis.analyze_run import analyze_run
from grow.common.errors import ConfigError
from grow.common.files import check_writable
from grow.evaluation import evaluate
from tests.faults.records_on_disk import keep


@pytest.fixture
def read_only(monkeypatch):
    """Answers as the system does for a directory that may not be written, also to root."""
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)


@pytest.mark.parametrize("path", ["", "new", "new/deeper"])
def test_a_directory_that_can_be_made_is_accepted_and_not_made_yet(tmp_path, path):
    check_writable(tmp_path / path, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["", "new", "new/deeper"])
def test_a_read_only_directory_is_a_sentence(tmp_path, read_only, path):
    with pytest.raises(ConfigError, match=r"is read-only here\. Do this\."):
        check_writable(tmp_path / path, "Do this.")


@pytest.mark.parametrize("path", ["file", "file/below", "dangling", "dangling/below"])
def test_a_file_or_dangling_link_in_the_place_of_a_directory_is_a_sentence(tmp_path, path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is none"):
        check_writable(tmp_path / path, "")


def test_a_read_only_run_is_evaluated_into_another_directory(tmp_path, read_only, monkeypatch):
    plan = SimpleNamespace(output=tmp_path / "run" / "eval" / "model")
    monkeypatch.setattr(evaluate, "_plan", lambda *arguments: plan)
    monkeypatch.setattr(evaluate, "find_checkpoint", lambda name: name)
    config = SimpleNamespace(evaluation=SimpleNamespace(tasks=[]), names=["run"])
    with pytest.raises(ConfigError, match="output=DIRECTORY"):
        evaluate.plan_evaluations(config)


def test_a_read_only_run_is_not_analyzed(tmp_path, read_only):
    with pytest.raises(ConfigError, match="analyze a copy"):
        analyze_run(keep(tmp_path).path)
