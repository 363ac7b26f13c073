"""Kills commands that make a directory, runs each again until it is made, and compares its bytes with a quiet one's.

The commands are growth, preparation of texts, averaging and export, on models that take a second. What counts as equal
is the folder around the output: a temporary file that was left there makes it unequal.
"""

import itertools
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.forks import import_everything, kill, sleep_while_running, start_command, wait

COMMANDS = {
    "prepare": "prepare_data",
    "grow": "grow_checkpoint",
    "average": "average_checkpoints",
    "export": "export",
}
"""What is killed -> the program in scripts/."""
_MODEL = ("model.layers=2", "model.embed=64", "model.heads=2", "model.kv_heads=2", "model.head_dim=32", "model.ffn=128")
_VOCABULARY = 300
_ARTICLES, _WORDS = 1500, 200
_KILLS_OF_A_RUN = 4  # most of them: what begins anew after a kill would else never get to its end
_BEYOND_THE_END = 1.1  # a moment that is drawn may lie so far behind the quiet run's


@dataclass(kw_only=True, slots=True)
class KillCount:
    """How many kills, starts and runs there were, and how many runs ended as the quiet run did."""

    kills: int = 0
    starts: int = 0
    runs: int = 0
    equal: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A command to kill, and the directory that it makes, which is alone in its folder."""

    command: str
    overrides: list[str]
    output: Path
    log: Path

    def start(self) -> list[int]:
        """Start the command and return a list of its process id."""
        return start_command(self.command, self.overrides, self.log)

    def finish(self) -> dict[str, bytes]:
        """Run the command to its end and return what it made."""
        codes = wait(self.start())
        if codes != [0]:
            raise RuntimeError(f"{self.command} ended with {codes}:\n{self.log.read_text()[-4000:]}")
        return self.made()

    def made(self) -> dict[str, bytes]:
        """Return the content of every file around and in the output, hidden ones too; directories have none."""
        folder = self.output.parent
        return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in _all_in(folder)}


def kill_and_repeat(
    directory: Path,
    names: Sequence[str],
    *,
    kills: int,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
) -> KillCount:
    """Kill commands in turn until there were enough kills, each being run again until its output is made.

    Args:
        directory: Directory that gets sources and outputs.
        names: Keys of COMMANDS.
        kills: Number of SIGKILLs, all commands together.
        seed: Seed of the moments.
        say: Function that gets one line for each output that was made.

    Raises:
        RuntimeError: a command ended by itself, with another exit code than 0, before it had made its output.
    """
    import_everything()
    draw, count = random.Random(seed), KillCount()
    cases = _make_cases(directory)
    quiet, longest_s = {}, {}
    for name in names:
        started = time.monotonic()
        quiet[name] = _take(cases[name], Case.finish)
        longest_s[name] = time.monotonic() - started
    for name in itertools.cycle(names):
        if count.kills >= kills:
            return count
        most = min(draw.randint(1, _KILLS_OF_A_RUN), kills - count.kills)
        longest_s[name] = _kill_until_made(cases[name], count, most, draw, longest_s[name])
        found = _take(cases[name], Case.made)
        count.runs += 1
        count.equal += found == quiet[name]
        differing = sorted(file for file in found.keys() | quiet[name] if found.get(file) != quiet[name].get(file))
        said = f"; not equal: {', '.join(differing)}" if differing else ""
        say(f"run {count.runs} ({name}): {count.kills} kills so far, {count.equal} of {count.runs} equal{said}")
    return count


def _kill_until_made(case: Case, count: KillCount, most: int, draw: random.Random, longest_s: float) -> float:
    """Start a command again and again, and kill it at any moment of its first starts, `most` of them.

    It is done when it ended by itself; where its output is there already, it refuses to make it again.

    Returns:
        Seconds that a start takes: those of the first if nobody killed it, else `longest_s`.
    """
    codes, start = [-signal.SIGKILL], 0
    while codes == [-signal.SIGKILL]:
        started = time.monotonic()
        process = case.start()
        count.starts += 1
        if start < most:
            sleep_while_running(process[0], draw.uniform(0, _BEYOND_THE_END * longest_s))
            killed = kill(process)
            count.kills += killed
            if start == 0 and not killed:
                longest_s = time.monotonic() - started
        codes = wait(process)
        start += 1
    if codes != [0] and not case.output.exists():
        raise RuntimeError(f"{case.command} ended with {codes}:\n{case.log.read_text()[-4000:]}")
    return longest_s


def _take(case: Case, of: Callable[[Case], dict[str, bytes]]) -> dict[str, bytes]:
    """Return what a command made, and clear its folder."""
    made = of(case)
    shutil.rmtree(case.output.parent)
    case.output.parent.mkdir()
    return made


def _make_cases(directory: Path) -> dict[str, Case]:
    """Make what the commands read, with the commands themselves, and return them by name."""

    def case(name: str, *overrides: str) -> Case:
        output = directory / name / "output"
        output.parent.mkdir(parents=True, exist_ok=True)
        log = directory / f"{name}.log"
        return Case(command=COMMANDS[name], overrides=[*overrides, f"output={output}"], output=output, log=log)

    prepare = case("prepare", f"input=[{_write_texts(directory / 'texts.txt')}]", f"vocab_size={_VOCABULARY}")
    prepare.finish()
    shards = prepare.output.rename(directory / "shards")
    run = directory / "run"
    _train(run, shards, directory / "train.log")
    widths = ("scale.embed=2", "scale.heads=2", "scale.kv_heads=2", "scale.ffn=2")
    return {
        "prepare": prepare,
        "grow": case("grow", f"source={run}", "growth=hyperclone_noisy", *widths, "shard_gb=0.0002"),
        "average": case("average", f"checkpoints=[{run}]", "averaging.k=3"),
        "export": case("export", f"source={max((run / 'checkpoints').iterdir())}"),
    }


def _write_texts(file: Path) -> Path:
    """Write a file of articles, each an empty line after the one before, in a language of a few words."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 8))) for _ in range(400)]
    file.write_text("\n\n".join(" ".join(draw.choices(words, k=_WORDS)) for _ in range(_ARTICLES)) + "\n")
    return file


def _train(run: Path, shards: Path, log: Path) -> None:
    """Train a tiny model that keeps its last three checkpoints."""
    overrides = (
        *("model=tiny", "growth=none", *_MODEL, "data=shards", f"data.path={shards}", f"run_dir={run}"),
        *(f"model.vocab_size={_VOCABULARY}", "data.sequence_length=32", "trainer.accelerator=cpu"),
        *("trainer.tokens_per_step=256", "trainer.micro_batch=8", "trainer.max_tokens=2048", "trainer.val_tokens=512"),
        *("trainer.val_every_tokens=1024", "checkpoint.every_tokens=512", "checkpoint.keep_last=3"),
    )
    codes = wait(start_command("train", list(overrides), log))
    if codes != [0]:
        raise RuntimeError(f"the training of the source ended with {codes}:\n{log.read_text()[-4000:]}")


def _all_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))
