"""Evaluation items in local files, and the harness's tasks reading them.

DIRECTORY/manifest.json              each task's origin, and the number of items and the digest of each file
DIRECTORY/arc_easy/test.jsonl        one item on each line, with the fields of the data set that the harness names

For each task a short file `include:`s the harness's own task file and replaces its data set. Prompts, choices and
metrics stay the harness's.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from grow.common.errors import ConfigError, DataError
from grow.common.provenance import write_json
from grow.common.records import parse_record
from grow.evaluation.catalogue import SPLITS, TASKS

MANIFEST_FILE = "manifest.json"
FORMAT = "grow-evaluation-data"
VERSION = 1
_FETCH_AGAIN = "It is damaged; fetch the items again into another directory."
_FETCH_COMMAND = "python scripts/fetch_eval_data.py output={}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Format:
    """What the manifests of every version say of themselves."""

    format: str
    version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Split:
    """One split of a task."""

    file: str
    """Path relative to the manifest's directory."""
    items: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """The manifest's entry of a task."""

    origin: str
    splits: dict[str, _Split]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Manifest:
    """What a manifest holds besides its format."""

    tasks: dict[str, _Task]


@dataclass(frozen=True, slots=True)
class EvaluationData:
    """A directory of items and its manifest; `check` compares the files with the manifest."""

    path: Path
    tasks: Mapping[str, dict[str, Any]]
    """The manifest's entry of each task: its origin, and file, items and SHA-256 of each split."""

    @classmethod
    def open(cls, path: str | Path) -> "EvaluationData":
        """Read a directory's manifest.

        Raises:
            DataError: the manifest is missing, damaged or of another version.
        """
        path = Path(path)
        manifest = path / MANIFEST_FILE
        if not manifest.is_file():
            raise DataError(
                f"{manifest}: expected a manifest of evaluation items, found none. Fetch the items: "
                f"{_FETCH_COMMAND.format(path)}, or set evaluation.data_dir to their directory."
            )
        raw = manifest.read_bytes()
        how = parse_record(raw, _Format, str(manifest), error=DataError, advice=_FETCH_AGAIN)
        found = how.format, how.version
        if found != (FORMAT, VERSION):
            raise DataError(
                f"{manifest}: expected {FORMAT} version {VERSION}, found {found[0]} version {found[1]}. Fetch the "
                "items again into another directory."
            )
        whole = parse_record(raw, _Manifest, str(manifest), error=DataError, advice=_FETCH_AGAIN)
        return cls(path, {task: asdict(entry) for task, entry in whole.tasks.items()})

    def check(self, tasks: Iterable[str], num_fewshot: int = 0) -> None:
        """Refuse tasks that cannot be evaluated on this directory, and files that differ from the manifest.

        Args:
            tasks: Names of the tasks.
            num_fewshot: Solved examples before each item.

        Raises:
            ConfigError: a task has no items here, or no split to sample examples from.
            DataError: a file is missing or differs from the manifest.
        """
        tasks = list(tasks)
        self._check_tasks(tasks)
        if num_fewshot:
            self._check_examples(tasks, num_fewshot)
        for task in tasks:
            for split in self.tasks[task]["splits"]:
                self._check_file(task, split)

    def _check_tasks(self, tasks: Iterable[str]) -> None:
        missing = [task for task in tasks if task not in self.tasks]
        if missing:
            raise ConfigError(
                f"evaluation.tasks: {self.path} has no items of {', '.join(missing)}; it has "
                f"{', '.join(sorted(self.tasks))}. Fetch them on a machine with a network ("
                f"{_FETCH_COMMAND.format('DIR')} origin=hub), or choose from those, as evaluation=harness8 does."
            )

    def _check_examples(self, tasks: Iterable[str], num_fewshot: int) -> None:
        """Refuse examples for tasks with a single split: the harness would sample them from the scored items."""
        single = [task for task in tasks if len(self.tasks[task]["splits"]) == 1]
        if single:
            raise ConfigError(
                f"evaluation.num_fewshot={num_fewshot}: {self.path} has no items of {', '.join(single)} but those "
                "that are scored, and examples must come from others. Set evaluation.num_fewshot=0, leave these tasks "
                f"out, or fetch all their splits on a machine with a network ({_FETCH_COMMAND.format('DIR')} "
                "origin=hub; lambada_openai has one split everywhere)."
            )

    def _check_file(self, task: str, split: str) -> None:
        path, expected = self.file(task, split), self.tasks[task]["splits"][split]["sha256"]
        if not path.is_file():
            raise DataError(f"{path}: expected this file of the manifest, but it is missing. Fetch the items again.")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise DataError(f"{path}: has changed since it was fetched (its SHA-256 differs). Fetch the items again.")

    def file(self, task: str, split: str) -> Path:
        """Return the file of one split."""
        return self.path / self.tasks[task]["splits"][split]["file"]

    def digest(self, task: str) -> str:
        """Return the SHA-256 over the digests of a task's files."""
        digests = [self.tasks[task]["splits"][split]["sha256"] for split in sorted(self.tasks[task]["splits"])]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def items(self, task: str, split: str) -> Iterator[dict[str, Any]]:
        """Yield the items of one split, in the order of the file."""
        with self.file(task, split).open() as lines:
            yield from map(json.loads, lines)

    def write_task_files(self, tasks: Iterable[str], directory: Path) -> None:
        """Write a task file for each task into a directory that the harness takes as `--include_path`.

        A split without local items is removed from the task; without a test split, the harness scores the validation
        split.
        """
        for task in tasks:
            config = task_config(task, {split: self.file(task, split) for split in self.tasks[task]["splits"]})
            config["dataset_kwargs"]["cache_dir"] = str(directory / "cache")
            (directory / f"{task}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def task_config(task: str, files: Mapping[str, Path]) -> dict[str, Any]:
    """Return a task file that includes the harness's own and reads local files, as plain data.

    Args:
        task: Name of the task.
        files: File of each split that has local items.
    """
    import lm_eval

    stock = Path(lm_eval.__file__).parent / "tasks" / TASKS[task].stock
    keys = {"train": "training_split", "validation": "validation_split", "test": "test_split"}
    return {
        "include": str(stock),
        "task": task,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(path.resolve()) for split, path in files.items()}},
        **{keys[split]: split if split in files else None for split in SPLITS},
    }


def write_items(
    directory: Path, found: Mapping[str, tuple[str, Mapping[str, list[dict[str, Any]]]]], note: str
) -> EvaluationData:
    """Write items, and then their manifest.

    Args:
        directory: Directory to fill.
        found: By task: its origin, and its items by split.
        note: One sentence for readers of the manifest.
    """
    tasks = {}
    for task, (origin, splits) in found.items():
        (directory / task).mkdir(parents=True)
        written = {split: _write_split(directory, task, split, items) for split, items in splits.items()}
        tasks[task] = {"origin": origin, "splits": written}
    write_json(directory / MANIFEST_FILE, {"format": FORMAT, "version": VERSION, "note": note, "tasks": tasks})
    return EvaluationData(directory, tasks)


def _write_split(directory: Path, task: str, split: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    content = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()
    (directory / task / f"{split}.jsonl").write_bytes(content)
    return {"file": f"{task}/{split}.jsonl", "items": len(items), "sha256": hashlib.sha256(content).hexdigest()}
