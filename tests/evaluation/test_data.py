"""Items on disk: errors name missing and damaged files, and corpora are searched for the items."""

import json
import shutil

import pytest

from grow.common.errors import ConfigError, DataError
from grow.evaluation.catalogue import TASKS
from grow.evaluation.contamination import find_overlaps, ngrams
from grow.evaluation.data import MANIFEST_FILE, EvaluationData, task_config, write_items


@pytest.fixture
def copied(items, tmp_path) -> EvaluationData:
    """A copy of the items that a test may damage."""
    shutil.copytree(items.path, tmp_path / "copy")
    return EvaluationData.open(tmp_path / "copy")


def test_undamaged_items_pass_the_check(items):
    EvaluationData.open(items.path).check(TASKS)


def test_a_directory_without_items_says_how_to_fetch_them(tmp_path):
    with pytest.raises(DataError, match=r"fetch_eval_data\.py output="):
        EvaluationData.open(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "other", "version": 1, "tasks": {}}'])
def test_a_damaged_manifest_is_refused(copied, content):
    (copied.path / MANIFEST_FILE).write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        EvaluationData.open(copied.path)


def test_a_damaged_file_is_named_even_where_only_one_letter_differs(copied):
    path = copied.path / "piqa" / "validation.jsonl"
    path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
    copied.check(["copa"])
    with pytest.raises(DataError, match=r"piqa/validation\.jsonl: has changed since it was fetched"):
        copied.check(["piqa"])
    path.unlink()
    with pytest.raises(DataError, match="but it is missing"):
        copied.check(["piqa"])


def test_a_missing_task_is_an_error_that_lists_the_tasks_there_are(items, tmp_path):
    some = {"copa": ("made up", {"validation": list(items.items("copa", "validation"))})}
    data = write_items(tmp_path, some, "some")
    with pytest.raises(ConfigError, match=r"no items of logiqa; it has copa\. .*harness8"):
        data.check(["copa", "logiqa"])


def test_examples_come_from_other_items_than_those_that_are_scored_or_are_refused(items, tmp_path):
    (own,) = items.tasks["copa"]["splits"]
    with pytest.raises(ConfigError, match=r"num_fewshot=2: .* no items of copa but those that are scored"):
        items.check(["copa"], num_fewshot=2)
    both = {"copa": ("made up", {split: list(items.items("copa", own)) for split in ("train", "validation")})}
    write_items(tmp_path, both, "some").check(["copa"], num_fewshot=2)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_file_changes_nothing_but_where_items_come_from(task, items):
    config = task_config(task, {"validation": items.path / "x.jsonl"})
    assert config["include"].endswith(TASKS[task].stock)
    assert set(config) == {
        *("include", "task", "dataset_path", "dataset_name", "dataset_kwargs"),
        *("training_split", "validation_split", "test_split"),
    }
    assert (config["training_split"], config["validation_split"], config["test_split"]) == (None, "validation", None)


def test_overlap_ignores_case_and_punctuation_and_finds_the_item(items):
    first = next(items.items("hellaswag", "validation"))
    copied = first["ctx_a"].upper().replace(" ", ", ")
    overlaps = find_overlaps(items, ["nothing of the kind", f"before {copied} after"], ngram=4)
    assert 0 in overlaps["hellaswag"].found
    assert not overlaps["copa"].found
    assert not find_overlaps(items, ["nothing of the kind"], ngram=4)["hellaswag"].found


def test_items_shorter_than_the_ngram_are_counted_separately(items):
    overlaps = find_overlaps(items, [], ngram=1000)
    assert all(overlap.too_short == overlap.items > 0 for overlap in overlaps.values())


def test_ngrams_are_consecutive_words():
    assert list(ngrams("One, two -- THREE four_five", 3)) == ["one two three", "two three four", "three four five"]
    assert list(ngrams("One two", 3)) == []


def test_the_manifest_holds_origins_and_digests(items):
    content = json.loads((items.path / MANIFEST_FILE).read_text())
    assert content["tasks"]["copa"]["origin"] == "made up"
    assert len(content["tasks"]["copa"]["splits"]["validation"]["sha256"]) == 64
