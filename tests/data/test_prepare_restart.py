"""Preparing in tasks: bytes do not depend on workers, parts, kills or failures; finished tasks are kept."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from grow.common.errors import DataError
from grow.data.shards import TokenShards
from grow.preparation import shard_task
from grow.preparation.held_out import is_held_out
from grow.preparation.prepare import prepare, prepare_part
from grow.preparation.prepare_options import Options
from grow.preparation.verify_shards import verify


@pytest.fixture(scope="module")
def texts(tmp_path_factory, sentences):
    """Five files of 0.6 MB, little of it text."""
    directory = tmp_path_factory.mktemp("tasks")
    for number in range(5):
        rows = [{"text": text, "source": f"s{number % 2}", "more": "x" * 4000} for text in sentences(150, seed=number)]
        (directory / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


@pytest.fixture(scope="module")
def options(prepared):
    return Options(tokenizer=str(prepared.tokenizer_dir), vocab_size=None, shard_tokens=2000, task_mb=1)


@pytest.fixture(scope="module")
def expected(texts, options, tmp_path_factory):
    """Contents of a directory that was prepared at once by one process."""
    return contents(prepare([str(texts)], tmp_path_factory.mktemp("once") / "out", options).path)


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_task_is_a_group_of_whole_files_of_about_a_size(expected):
    tasks = [json.loads(raw) for name, raw in sorted(expected.items()) if name.startswith("tasks/")]
    assert len(tasks) > 1
    assert [Path(each["name"]).name for task in tasks for each in task["inputs"]] == [f"{n}.jsonl" for n in range(5)]


def test_parts_together_give_the_same_bytes_and_the_last_finishes(texts, options, expected, tmp_path):
    for part in (1, 0):
        assert prepare_part([str(texts)], tmp_path / "out", options, part=(part, 2)) is (part == 0)
    assert contents(tmp_path / "out") == expected
    assert prepare_part([str(texts)], tmp_path / "out", options, part=(1, 2))


def test_a_full_disk_keeps_finished_tasks_and_the_same_command_goes_on(texts, options, expected, tmp_path, monkeypatch):
    write, done = shard_task.ShardTask._write, []

    def fill(task, *arguments):
        done.append(task.number)
        if task.number == 1 and done.count(1) == 1:
            raise OSError(errno.ENOSPC, "full")
        return write(task, *arguments)

    monkeypatch.setattr(shard_task.ShardTask, "_write", fill)
    with pytest.raises(DataError, match=r"the disk is full\. Finished tasks are kept"):
        prepare([str(texts)], tmp_path / "out", options)
    prepare([str(texts)], tmp_path / "out", options)
    assert done.count(0) == 1
    assert contents(tmp_path / "out") == expected


@pytest.mark.parametrize("change", ["options", "inputs", "restart"])
def test_another_plan_is_refused_until_it_begins_anew(texts, options, expected, tmp_path, monkeypatch, change):
    shutil.copytree(texts, tmp_path / "texts")
    monkeypatch.setattr(
        "grow.preparation.prepare.write_results", lambda *args: (_ for _ in ()).throw(DataError("later"))
    )
    with pytest.raises(DataError, match="later"):
        prepare([str(tmp_path / "texts")], tmp_path / "out", options)
    monkeypatch.undo()
    if change == "inputs":
        os.utime(tmp_path / "texts" / "0.jsonl", (1, 1))
    else:
        options = Options(tokenizer=options.tokenizer, vocab_size=None, shard_tokens=777, task_mb=1)
    if change != "restart":
        with pytest.raises(DataError, match=r"0\.jsonl: .*restart=true" if change == "inputs" else "shard_tokens=2000"):
            prepare([str(tmp_path / "texts")], tmp_path / "out", options)
    prepare([str(tmp_path / "texts")], tmp_path / "out", options, restart=True).verify()
    assert not list(tmp_path.glob(".out*"))


def test_a_larger_share_holds_out_all_that_a_smaller_one_does(sentences):
    texts = sentences(3000, seed=1)
    held = {percent: {text for text in texts if is_held_out(text, percent)} for percent in (0.5, 5.0, 5.5, 20)}
    assert held[0.5] < held[5.0] < held[5.5] < held[20]
    assert 0.15 < len(held[20]) / len(texts) < 0.25


def test_the_manifest_says_what_the_shards_were_made_of(expected, texts):
    manifest = json.loads(expected["manifest.json"])
    assert sum(shard["documents"] for shard in manifest["shards"]) == manifest["prepared"]["counts"]["documents"] == 750
    assert [each["name"] for each in manifest["prepared"]["inputs"]] == [f"{n}.jsonl" for n in range(5)]


def test_verify_lists_every_shard_that_differs(copied):
    assert verify(copied.path, 2) == len(copied.shards)
    for shard in copied.shards[:2]:
        (copied.path / shard.file).write_bytes(bytes(copied.bytes_of(shard)))
    with pytest.raises(DataError) as error:
        verify(copied.path, 2)
    assert all(shard.file in str(error.value) for shard in copied.shards[:2])


COMMAND = [sys.executable, str(Path(__file__).parents[2] / "scripts/prepare_data.py"), "workers=2", "task_mb=1"]


def start(texts, options, output):
    given = [f"input=[{texts}]", f"output={output}", f"tokenizer={options.tokenizer}", "shard_tokens=2000"]
    return subprocess.Popen([*COMMAND, *given], stderr=subprocess.PIPE, text=True, cwd=output.parent)


@pytest.mark.slow
def test_killed_at_random_moments_with_two_workers_the_bytes_are_the_same(texts, options, expected, tmp_path):
    draw = random.Random(0)
    kills = int(os.environ.get("GROW_KILLS", "3"))
    while not (tmp_path / "out").exists():
        process = start(texts, options, tmp_path / "out")
        if kills:
            kills -= 1
            time.sleep(draw.uniform(1, 12))
            process.send_signal(signal.SIGKILL)
        error = process.communicate()[1]
        assert process.returncode in (0, -signal.SIGKILL), error
    assert contents(tmp_path / "out") == expected
    tokens = TokenShards.open(tmp_path / "out")
    assert np.sum([shard.tokens for shard in tokens.shards]) > 0
