"""Prepares token shards from texts: divide the inputs into tasks, do those that are not done, write the manifest.

While it is being made, OUTPUT is .OUTPUT.partial, which is kept after an error and when processes are killed:

plan.json            options and inputs; another start with others is refused
tokenizer/           loaded or trained once, by one process
tasks/TTTTT.json     what a task wrote; the task is done once this is there
SPLIT/SOURCE-TTTTT-NNNNN.npy

The shards, their order and the manifest depend on options and inputs alone.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from grow.common.errors import CheckpointError, DataError
from grow.common.files import kept_directory, publish_new, unfinished
from grow.common.locks import lock
from grow.common.provenance import write_json
from grow.common.records import read_json
from grow.common.temporary import MARKER, discard, finish_publishing, remove
from grow.common.work_bar import WorkBar
from grow.data.manifest import MANIFEST_FILE, TOKENIZER_DIR
from grow.data.shards import TokenShards
from grow.data.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from grow.preparation.encode import PIECE_CHARACTERS, cut
from grow.preparation.held_out import is_held_out, say_held_out
from grow.preparation.prepare_options import Options
from grow.preparation.shard_task import TASKS, Report, ShardTask
from grow.preparation.task_records import write_results
from grow.preparation.task_workers import run_in_workers
from grow.preparation.texts import TextFile, find_texts

TOKENIZER_CHARACTERS = 200_000_000  # most characters to train a tokenizer on
PLAN = "plan.json"


def prepare(
    inputs: list[str], output: Path, options: Options, *, workers: int = 1, restart: bool = False
) -> TokenShards:
    """Tokenize texts into a directory of shards, or go on where an earlier start was killed or failed.

    Args:
        inputs: Files, directories, patterns, URLs and lists (see grow/preparation/texts.py).
        output: Directory to make.
        options: What decides the tokens.
        workers: Processes, each of which does one task at a time.
        restart: Whether to begin anew.

    Raises:
        DataError: an input is missing, damaged or changed, the output exists, or the disk is full. Finished tasks are
            kept.
    """
    prepare_part(inputs, output, options, workers=workers, restart=restart)
    return TokenShards.open(output)


def prepare_part(
    inputs: list[str],
    output: Path,
    options: Options,
    *,
    part: tuple[int, int] = (0, 1),
    workers: int = 1,
    restart: bool = False,
) -> bool:
    """Do the tasks whose number modulo `part[1]` is `part[0]`; whoever does the last of all finishes the directory.

    Returns:
        Whether the directory is complete.

    Raises:
        DataError: as `prepare`.
    """
    if part[1] > 1 and (output / MANIFEST_FILE).is_file():
        return True
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        finish_publishing(output)
        raise DataError(f"{output}: expected nothing, found a file or directory. Remove it or choose another output.")
    files = find_texts(inputs)
    if output.is_dir():
        output.rmdir()
    marker = MARKER if part[1] == 1 else f".part-{part[0]}-of-{part[1]}.lock"
    with _errors_explained(output), kept_directory(output, 0, PLAN, marker) as directory:
        made = _Preparation(files=files, directory=directory, options=options)
        try:
            made.begin(marker, restart=restart)
            made.run([task for task in made.tasks if task.number % part[1] == part[0]], workers)
            return made.finish(output)
        except BaseException as error:
            if part[1] == 1 and (output.exists() or not any((directory / TASKS).glob("*.json"))):
                discard(directory)  # nothing in it is of use
            if isinstance(error, OSError):
                raise DataError(_write_failure(output, error)) from None
            raise


@contextmanager
def _errors_explained(output: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise DataError(str(error)) from None
    except OSError as error:
        raise DataError(_write_failure(output, error)) from None


def _write_failure(output: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{output}: the disk is full. Finished tasks are kept in {unfinished(output)}: free space and start the "
            "same command again."
        )
    return f"{output}: cannot be written: {error}. Start the same command again, or choose another output."


@dataclass(kw_only=True, frozen=True)
class _Preparation:
    """Inputs, options, and the unfinished directory; a worker gets a copy."""

    files: list[TextFile]
    directory: Path
    options: Options

    @cached_property
    def tasks(self) -> list[ShardTask]:
        """Inputs grouped by their names and sizes alone; the part of a data set is a task of its own."""
        groups: list[list[TextFile]] = []
        limit = self.options.task_mb * 1_000_000
        left = 0
        for file in self.files:
            size = file.size or (limit if "#" in file.name else 0)
            if not groups or size > left:
                groups.append([])
                left = limit
            groups[-1].append(file)
            left -= size
        common = {"shard_tokens": self.options.shard_tokens, "validation_percent": self.options.validation_percent}
        return [
            ShardTask(number=number, files=group, directory=self.directory, **common)  # type: ignore[arg-type]
            for number, group in enumerate(groups)
        ]

    def begin(self, marker: str, *, restart: bool) -> None:
        """Compare with the plan of an earlier start, or write it; make the tokenizer; say what will be held out.

        Raises:
            DataError: an earlier start had other options or inputs, or a finished task's input was changed.
        """
        with lock(self.directory / ".plan.lock", wait=True):
            if restart:
                for path in self.directory.iterdir():
                    if path.name not in (marker, ".plan.lock"):
                        remove(path)
            plan = {"options": self.options.of_the_data, "inputs": [[file.name, file.size] for file in self.files]}
            path = self.directory / PLAN
            if path.is_file():
                self._compare(read_json(path), plan)
            else:
                write_json(path, plan)
            (self.directory / TASKS).mkdir(exist_ok=True)
            tokenizer = self._make_tokenizer()
        if not any(task.record.is_file() for task in self.tasks):
            percent = self.options.validation_percent
            say_held_out(self.options.reader(skip=True), self.files, tokenizer, percent)

    def run(self, tasks: list[ShardTask], workers: int) -> None:
        """Do the tasks that are not done, each in one process."""
        left = [task for task in tasks if not task.record.is_file()]
        size = sum(file.size for task in left for file in task.files)
        with WorkBar("write shards", size) as bar:
            if min(workers, len(left)) > 1:
                run_in_workers(partial(_run_task, self.options), left, min(workers, len(left)), bar)
            else:
                for task in left:
                    _run_task(self.options, task, bar.add)

    def finish(self, output: Path) -> bool:
        """Write the manifest and give the directory its name, if all tasks are done; return whether it has it.

        Raises:
            DataError: there is nothing to train on or to hold out, or too much bad input.
        """
        try:
            with lock(self.directory / ".finish.lock", wait=True):
                if not all(task.record.is_file() for task in self.tasks):
                    return False
                write_results(self.directory, [read_json(task.record) for task in self.tasks], self.options)
                for path in self.directory.glob(".*.lock"):
                    if path.name != MARKER:
                        path.unlink()
                publish_new(self.directory, output)
        except FileNotFoundError:  # another part has just done it
            if not (output / MANIFEST_FILE).is_file():
                raise
        return True

    def _compare(self, before: dict[str, Any], plan: dict[str, Any]) -> None:
        advice = f"Give what it had, or restart=true to begin anew ({self.directory} holds what was done)."
        changed = [
            f"{k}={before['options'].get(k)}" for k, v in plan["options"].items() if before["options"].get(k) != v
        ]
        if changed:
            raise DataError(f"{self.directory}: an unfinished start had {', '.join(changed)}. {advice}")
        odd = [name for name, size in before["inputs"] if [name, size] not in plan["inputs"]]
        odd += [name for name, size in plan["inputs"] if [name, size] not in before["inputs"]]
        for task in self.tasks if not odd else []:
            if task.record.is_file():
                done = {each["name"]: each["version"] for each in read_json(task.record)["inputs"]}
                odd += [file.name for file in task.files if done[file.name] != file.version]
        if odd:
            raise DataError(f"{odd[0]}: this input was added, removed or changed after an unfinished start. {advice}")

    def _make_tokenizer(self) -> PreTrainedTokenizerFast:
        target, new = self.directory / TOKENIZER_DIR, self.directory / ".tokenizer.new"
        if not target.is_dir():
            remove(new)
            name = self.options.tokenizer
            save_tokenizer(self._train() if name is None else load_tokenizer(name), new)
            new.rename(target)
        return load_tokenizer(str(target))

    def _train(self) -> PreTrainedTokenizerFast:
        reader = self.options.reader()

        def texts(bar: WorkBar) -> Iterator[str]:
            characters = 0
            reader.on_bytes = lambda size: bar.add(0, 0, size)
            for document in reader.documents(self.files):
                if characters > TOKENIZER_CHARACTERS:
                    return
                bar.add(1, 0, 0)
                if not is_held_out(document.text, self.options.validation_percent):
                    characters += len(document.text)
                    yield from cut(document.text, PIECE_CHARACTERS)

        with WorkBar("train tokenizer", sum(file.size for file in self.files)) as bar:
            return train_tokenizer(texts(bar), self.options.vocab_size or 0)


def _run_task(options: Options, task: ShardTask, report: Report) -> None:
    """Do one task; another process that is doing it is waited for."""
    with lock(task.directory / f".task-{task.number:05d}.lock", wait=True):
        if not task.record.is_file():
            task.run(options.reader(), load_tokenizer(str(task.directory / TOKENIZER_DIR)), report)
