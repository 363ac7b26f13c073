"""Ctrl-C says what is true at that moment, a closed pipe ends a command quietly, a terminal gets bars and tables."""

import codecs
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from grow.cli.command import entry_point
from grow.cli.config import COMMANDS
from grow.cli.interrupts import NOTHING
from grow.training.loop import progress
from grow.training.loop.progress import ProgressDisplay
from tests.training.tiny import TINY, command_line, make_shards
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "scripts").glob("*.py"))
BENCHMARKS = ("averaging", "chaos", "distributed", "eval", "growth", "growth_contestants", "train")
GROW = ["-m", "grow.cli.main"]
LONG = [
    *([script, "--help"] for script in ("train.py", "eval.py", *SCRIPTS)),
    *(["train.py", "--cfg", "job"], ["scripts/grow_checkpoint.py", "--list"], ["eval.py", "--no-such-option"]),
    *(["-m", f"benchmarks.{name}", "--help"] for name in BENCHMARKS),
    *([f"studies/{name}.py", "--help"] for name in ("fetch_debian_docs", "lawa_images")),
    *([*GROW, "--help"], [*GROW, "train", "--help"], [*GROW, "nothing"]),
]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TERM": "xterm",
}


def checkpoint(run, step):
    (run / "checkpoints" / f"step-{step:08}").mkdir(parents=True)
    (run / "checkpoints" / f"step-{step:08}" / "COMPLETE.json").write_text("{}")


def torn(run, step):
    (run / "checkpoints" / f"step-{step:08}").mkdir(parents=True)


def finished(directory):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")


def partial(output):
    output.with_name(f".{output.name}.partial").mkdir()


OUTPUT = "output={}/out"
MADE = [  # command, its overrides, what makes the directory that it makes
    ("grow_checkpoint", ["source=s", "growth=hyperclone", OUTPUT]),
    ("prepare_data", ["input=[t]", "tokenizer=t", OUTPUT]),
    ("export", ["source=s", OUTPUT]),
    ("average_checkpoints", ["checkpoints=[s]", OUTPUT]),
    ("fetch_eval_data", [OUTPUT]),
]
RUN = ["growth=none", "run_dir={}/out"]
AGAIN = "The same command continues from step"
CASES = [  # command, its overrides, what has been written, what is said
    ("train", RUN, lambda out: None, NOTHING),
    ("train", RUN, lambda out: out.mkdir(), NOTHING),
    ("train", RUN, lambda out: torn(out, 5), NOTHING),
    ("train", RUN, lambda out: checkpoint(out, 5), f"{AGAIN} 5."),
    ("train", RUN, lambda out: [checkpoint(out, step) for step in (900, 1200, 80)], f"{AGAIN} 1,200."),
    ("train", RUN, lambda out: [checkpoint(out, 5), torn(out, 9)], f"{AGAIN} 5."),
    ("train", RUN, lambda out: finished(out / "model"), "The run is finished: its model is"),
    ("chain", ["chain=stackbert", *RUN], lambda out: None, "continues at the link it was in"),
    *((name, given, lambda out: None, NOTHING) for name, given in MADE),
    *((name, given, finished, "out is complete.") for name, given in MADE),
    ("grow_checkpoint", MADE[0][1], partial, "Weight files that are complete are kept; the same command continues."),
    ("prepare_data", MADE[1][1], partial, "Tasks that are finished are kept; the same command continues."),
    ("prepare_data", ["verify=shards"], lambda out: None, "No shard was changed"),
    (
        "prepare_data",
        ["adopt=shards", "tokenizer=t", "dtype=uint16", "validation_tokens=5"],
        lambda out: None,
        "No shard was changed",
    ),
    ("eval", ["checkpoint=c"], lambda out: None, "Results of tasks that are finished are kept"),
    ("analyze", ["run=r"], lambda out: None, "The run is as it was"),
    ("report", ["runs=r", OUTPUT], lambda out: None, "No run was changed; the same command starts anew."),
    ("wandb_report", ["runs=r", OUTPUT], lambda out: None, "No run was changed; the same command starts anew."),
    ("sweep_averages", ["run=r", OUTPUT], lambda out: None, "No run was changed; the same command starts anew."),
    ("estimate", [], lambda out: None, "No run was changed; the same command starts anew."),
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.mark.parametrize("how", [KeyboardInterrupt(), SystemExit(130)], ids=["here", "in a process it started"])
@pytest.mark.parametrize(("name", "overrides", "write", "says"), CASES)
def test_an_interrupt_says_what_is_kept_at_that_moment(
    name, overrides, write, says, how, tmp_path, monkeypatch, capsys
):
    def task(config):
        write(tmp_path / "out")
        raise how

    monkeypatch.setattr(sys, "argv", [f"{name}.py", *(given.format(tmp_path) for given in overrides)])
    with pytest.raises(SystemExit) as ended:
        entry_point(name, COMMANDS.get(name, COMMANDS["run"]))(task)()
    assert ended.value.code == 130
    said = capsys.readouterr().err
    assert said.count("Interrupted.") == 1
    assert says in said


def test_an_interrupt_before_anything_started_says_so(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("grow.cli.command.parse", interrupted)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as ended:
        entry_point("train", COMMANDS["run"])(interrupted)()
    assert ended.value.code == 130
    assert "Interrupted. Nothing was started." in capsys.readouterr().err


def test_an_interrupt_between_two_runs_of_a_sweep_shows_what_is_done(shards, monkeypatch, tmp_path, capsys):
    def run(sweep, number, *_):
        if number == 1:
            raise KeyboardInterrupt
        sweep._folder.mkdir(parents=True)
        outcome = {"number": 0, "overrides": ["seed=0"], "state": "finished"}
        (sweep._folder / "0.json").write_text(json.dumps(outcome))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("grow.sweeps.sweep.Sweep.run", run)
    monkeypatch.setattr(sys, "argv", ["train.py", *TINY, f"data.path={shards}", "-m", "seed=0,1"])
    with pytest.raises(SystemExit) as ended:
        entry_point("train", COMMANDS["run"])(lambda config: None)()
    assert ended.value.code == 130
    shown = capsys.readouterr()
    assert "1 finished" in shown.out
    assert "Interrupted. Runs that are finished are kept; the same command does the others." in shown.err


@pytest.mark.parametrize(
    "command", [*LONG[:3], *(pytest.param(each, marks=pytest.mark.slow) for each in LONG[3:])], ids=" ".join
)
@pytest.mark.parametrize("read", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["not read", "one byte read"])
def test_a_command_whose_output_nobody_reads_ends_quietly(command, read):
    ours, theirs = os.pipe()
    if not read:
        os.close(ours)
    process = subprocess.Popen(
        [warm_python(), "-u", *command], cwd=ROOT, env=ENVIRONMENT, stdout=theirs, stderr=subprocess.PIPE, text=True
    )
    os.close(theirs)
    if read:
        os.read(ours, 1)
        os.close(ours)
    _, errors = process.communicate(timeout=300)  # the first one waits for the imports
    assert "BrokenPipe" not in errors
    assert "Traceback" not in errors
    if command[-1] in ("--no-such-option", "nothing"):  # these write to standard error alone
        assert process.returncode == 2
    elif not read:
        assert (process.returncode, errors) == (141, "")
    else:  # a text that the pipe holds as a whole was written before it was closed
        assert process.returncode in (0, 141)


def test_an_error_of_another_pipe_is_not_hidden(monkeypatch):
    from grow.cli.closed_pipe import ends_with_its_reader

    with pytest.raises(BrokenPipeError), ends_with_its_reader():
        raise BrokenPipeError


class Terminal:
    """A command on a terminal of its own, in which ^C interrupts it."""

    def __init__(self, *command, columns=100):
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            [warm_python(), *command],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self.shown, self._decoder = "", codecs.getincrementaldecoder("utf-8")()

    def read(self, until=lambda shown: False, seconds=300):
        """Read until something is shown, or to the end."""
        deadline = time.monotonic() + seconds
        while not until(self.shown) and time.monotonic() < deadline:
            try:
                self.shown += self._decoder.decode(os.read(self.ours, 65536))
            except OSError:  # the command has ended
                break
        return self.shown

    def interrupt(self):
        os.write(self.ours, b"\x03")


def steps_shown(shown):
    return {int(step) for step in re.findall(r"(\d+)/100000", shown)}


def test_ctrl_c_on_a_terminal_is_exit_code_130_and_names_the_step_from_which_the_next_start_goes_on(shards, tmp_path):
    rarely = ("trainer.max_tokens=12_800_000", "trainer.log_every_steps=100000", "trainer.val_every_tokens=12_800_000")
    more = ("checkpoint.every_tokens=2560", "checkpoint.background=false")
    overrides = command_line(shards, tmp_path / "run", *rarely, *more)
    terminal = Terminal("train.py", *overrides)
    terminal.read(lambda shown: len(steps_shown(shown)) > 5 and list(tmp_path.glob("run/checkpoints/step-*/COMPLETE*")))
    assert len(steps_shown(terminal.shown)) > 5  # the bar moves though no step was logged
    terminal.interrupt()
    said = terminal.read()
    assert terminal.process.wait(60) == 130
    assert "Traceback" not in said
    (step,) = re.findall(r"Interrupted\. The same command continues from step ([\d,]+)\.", said)
    again = Terminal("train.py", *overrides)
    again.read(lambda shown: "of them done" in shown)
    again.interrupt()
    again.read()
    assert f"{step} of them done" in again.shown
    assert again.process.wait(60) == 130


def test_ctrl_c_before_the_first_checkpoint_says_that_nothing_was_saved(shards, tmp_path):
    overrides = command_line(shards, tmp_path / "run", "trainer.max_tokens=12_800_000", "checkpoint.every_tokens=null")
    terminal = Terminal("train.py", *overrides)
    terminal.read(lambda shown: len(steps_shown(shown)) > 1)
    terminal.interrupt()
    assert NOTHING in terminal.read()
    assert terminal.process.wait(60) == 130


def test_every_step_moves_the_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    seconds = iter(range(1, 1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    display = ProgressDisplay(5, shown=True)
    display.start(0)
    for step in range(1, 6):
        display.advance(step)
    display.stop()
    shown = capsys.readouterr().out
    assert [f"{step}/5" in shown for step in range(6)] == [True] * 6


@pytest.mark.parametrize("columns", [80, 100, 140, 200])
def test_the_list_of_growths_is_a_table_that_fits_its_terminal(columns):
    terminal = Terminal("scripts/grow_checkpoint.py", "--list", columns=columns)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.read())
    assert terminal.process.wait(60) == 0
    lines = shown.replace("\r", "").splitlines()
    assert max(map(len, lines)) <= columns
    assert "| ---" not in shown
    for preset in (ROOT / "configs" / "growth").glob("*.yaml"):
        if "reference:" in preset.read_text():
            assert any(f" {preset.stem} " in line for line in lines), preset.stem


def test_the_list_of_growths_is_markdown_where_it_is_piped():
    done = subprocess.run(
        [warm_python(), "scripts/grow_checkpoint.py", "--list"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[1] == "| --- | --- | --- | --- | --- |"
    assert json.dumps(done.stderr) == '""'
