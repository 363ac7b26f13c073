"""Sweeps: an error ends only its own run, finished runs are skipped, and the worst run decides the exit code."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grow.common.child_process import run_process
from grow.common.errors import ConfigError, DataError
from grow.sweeps import requeue as requeueing
from grow.sweeps.sweep import RunOutcome, Sweep, as_table, worst
from tests.training.tiny import command_line, make_shards
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]
SIGNAL_PARENT = "import os, signal, sys, time; os.kill(os.getppid(), signal.SIG{name}); time.sleep(30)"
SAVES = "import signal, sys; signal.signal(signal.SIG{name}, lambda *_: sys.exit(75)); " + SIGNAL_PARENT


def python(code):
    return [sys.executable, "-c", code]


def train(*overrides, cwd, python=sys.executable, **environment):
    return subprocess.run(
        [python, str(ROOT / "train.py"), *overrides],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def states(answer):
    """Return the rows of the table as (run, state)."""
    _, _, table = answer.stdout.rpartition("\n\n")
    return [tuple(re.split(" {2,}", line)[:2]) for line in table.splitlines()[:-1]]


@pytest.mark.parametrize(
    ("code", "exit_code", "error"),
    [
        ("pass", 0, "exit code 0"),
        ("raise ValueError('no')", 1, "ValueError: no"),
        ("import sys; sys.stderr.write('DataError: gone\\nbye\\n'); sys.exit(77)", 77, "DataError: gone"),
        ("import sys; sys.exit('some words')", 1, "some words"),
        ("import os; os._exit(3)", 3, "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137, "exit code 137"),
    ],
)
def test_a_process_is_judged_by_its_exit_code_and_the_line_that_names_its_error(code, exit_code, error):
    ended = run_process(python(code))
    assert (ended.code, ended.error) == (exit_code, error)
    assert ended.state == ("failed" if exit_code else "finished")


def test_errors_are_passed_through_as_they_come(capfd):
    run_process(python("import sys; print('one\\ntwo', file=sys.stderr); print('three')"))
    captured = capfd.readouterr()
    assert (captured.err, captured.out) == ("one\ntwo\n", "three\n")


@pytest.mark.parametrize("name", ["TERM", "USR1", "USR2", "HUP"])
def test_a_signal_is_passed_on_and_a_run_that_saves_on_it_is_preempted(name):
    before = signal.getsignal(signal.Signals[f"SIG{name}"])
    ended = run_process(python(SAVES.format(name=name)))
    assert (ended.code, ended.state) == (75, "preempted")
    assert signal.getsignal(signal.Signals[f"SIG{name}"]) == before


def test_a_run_that_dies_of_the_signal_before_it_can_save_is_preempted_too():
    assert run_process(python(SIGNAL_PARENT.format(name="USR1"))).state == "preempted"


def test_a_run_that_dies_of_a_signal_that_nobody_sent_here_failed():
    assert run_process(python("import os; os.kill(os.getpid(), 15)")).state == "failed"


def test_an_interrupt_is_passed_on_and_is_no_failure():
    assert run_process(python(SIGNAL_PARENT.format(name="INT"))).state == "interrupted"


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0, 0], 0), ([0, 2, 1], 2), ([77, 76, 0], 77), ([137, 1], 137), ([77, 75, 0], 75), ([75, 130], 130)],
)
def test_the_worst_run_decides_unless_the_sweep_was_stopped(codes, code):
    assert worst(codes) == code


def test_the_table_names_runs_by_what_differs():
    shared = ["model=tiny", "growth=none"]
    finished = RunOutcome(number=0, overrides=[*shared, "seed=1"], state="finished", note="outputs/a")
    failed = RunOutcome(number=1, overrides=[*shared, "seed=20"], state="failed", exit_code=1, note="E: x")
    assert as_table([finished, failed]).splitlines() == [
        "seed=1   finished     outputs/a",
        "seed=20  failed       E: x",
        "1 finished, 1 failed",
    ]
    assert as_table([finished]).startswith("model=tiny growth=none seed=1  finished")


def test_the_run_at_which_a_sweep_is_stopped_is_its_last(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(SAVES.format(name="TERM"))
    sweep = Sweep(str(script))
    for number in range(3):
        sweep.run(number, [f"seed={number}"], lambda: None)
    assert sweep.close() == 75
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[-4:-1]] == [
        ["seed=0", "preempted"],
        ["seed=1", "waiting"],
        ["seed=2", "waiting"],
    ]


def test_a_run_that_cannot_be_configured_fails_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text("")
    sweep = Sweep(str(tmp_path / "script.py"))

    def impossible():
        raise DataError("no such thing")

    sweep.run(0, ["seed=0"], impossible)
    sweep.run(1, ["seed=1"], lambda: None)
    assert sweep.close() == 77
    printed = capsys.readouterr().out
    assert "DataError: no such thing" in printed and "1 failed, 1 finished" in printed


def test_a_sweep_without_runs_prints_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert Sweep("train.py").close() == 0
    assert capsys.readouterr().out == ""


def test_a_sweep_that_is_itself_several_processes_is_refused(tmp_path, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="-m: expected one process"):
        Sweep("train.py").run(0, [], lambda: None)


def test_a_job_that_was_preempted_hands_the_signal_to_submitit_and_a_cancelled_one_does_not(tmp_path, monkeypatch):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\ncat {tmp_path}/state\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert requeueing.requeue() == "the same command continues it"
    job = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "2"}
    for name, value in {**job, "SUBMITIT_EXECUTOR": "slurm"}.items():
        monkeypatch.setenv(name, value)
    got = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: got.append(number))
    try:
        (tmp_path / "state").write_text("JobId=9 JobState=CANCELLED Reason=None")
        assert "cancelled" in requeueing.requeue()
        assert got == []
        (tmp_path / "state").write_text("JobId=9 JobState=RUNNING Reason=None")
        requeueing.requeue()
        assert got == [signal.SIGUSR2]
        assert (tmp_path / "asked").read_text() == "show job 9_2\n"
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_sweep_skips_what_is_finished_reports_what_is_wrong_and_goes_on(tmp_path):
    (tmp_path / "done" / "model").mkdir(parents=True)
    sweep = ["-m", "run_dir=done,new", "trainer.max_tokens=1000000,100", "trainer.val_tokens=5"]
    answer = train(*sweep, cwd=tmp_path)
    assert states(answer) == [
        ("run_dir=done trainer.max_tokens=1000000", "skipped"),
        ("run_dir=done trainer.max_tokens=100", "failed"),
        ("run_dir=new trainer.max_tokens=1000000", "failed"),
        ("run_dir=new trainer.max_tokens=100", "failed"),
    ]
    assert answer.returncode == 2
    assert "less than one step" in answer.stdout and "at least one sequence" in answer.stdout
    assert answer.stdout.endswith("1 skipped, 3 failed\n")
    assert "Traceback" not in answer.stdout + answer.stderr


TASK = """
from pathlib import Path
from grow.cli.command import entry_point
from grow.cli.run_config import RunConfig

@entry_point("train", RunConfig)
def main(run: RunConfig) -> None:
    print("trained", run.model.name, run.model.vocab_size, flush=True)
    directory = run.directory
    directory.mkdir(parents=True)
    rows = [f'{{"val/loss": {loss}}}\\n' for loss in (9, run.seed + 0.5)]
    (directory / "metrics.jsonl").write_text("".join(rows))
    if run.seed == 3:
        raise SystemExit(76)

main()
"""
SEEN = """
from hydra.experimental.callback import Callback

class Seen(Callback):
    def on_job_end(self, config, job_return, **_):
        print("returned", job_return.return_value, flush=True)
"""


def command(*arguments, cwd):
    """Run a command whose runs end at once, from a file of its own."""
    (cwd / "shards").mkdir()
    make_shards(cwd / "shards")
    (cwd / "task.py").write_text(TASK)
    (cwd / "seen.py").write_text(SEEN)
    return subprocess.run(
        [warm_python(), str(cwd / "task.py"), "data=shards", "data.path=shards", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{cwd}", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_the_runs_of_a_sweep_find_the_folders_and_the_file_that_the_sweep_was_given(tmp_path):
    choices, searched = tmp_path / "choices", tmp_path / "searched"
    for folder, size in ((choices, 4097), (searched, 4098)):
        (folder / "model").mkdir(parents=True)
        model = f"defaults: [tiny, _self_]\nname: {folder.name}\nvocab_size: {size}\n"
        (folder / "model" / f"{folder.name}.yaml").write_text(model)
    (choices / "mine.yaml").write_text("defaults: [train, _self_]\nseed: 7\n")
    where = ["--config-dir", "choices", "--config-name", "mine", f"hydra.searchpath=[file://{searched}]"]
    answer = command("-m", *where, "model=choices,searched", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "trained choices 4097" in answer.stdout and "trained searched 4098" in answer.stdout
    assert "-seed7-" in answer.stdout


@pytest.mark.slow
def test_a_sweeper_is_told_the_final_validation_loss_of_every_run_and_infinity_where_it_diverged(tmp_path):
    answer = command("-m", "seed=1,2,3", "+hydra.callbacks.seen._target_=seen.Seen", cwd=tmp_path)
    told = [line.split()[1] for line in answer.stdout.splitlines() if line.startswith("returned")]
    assert told == ["1.5", "2.5", "inf"], answer.stderr


@pytest.mark.parametrize(
    "last",
    [
        "trainer.micro_batch=1,7",
        *(
            pytest.param(last, marks=pytest.mark.slow)
            for last in ("seed=0,1,x", "trainer.max_tokens=4096,1", "data.path=shards,no")
        ),
    ],
)
def test_a_sweep_with_one_mistake_starts_nothing_and_names_the_run(last, tmp_path):
    answer = command("-m", last, cwd=tmp_path)
    assert answer.returncode == (77 if last.startswith("data") else 2), answer.stderr
    assert "trained" not in answer.stdout and "Traceback" not in answer.stderr
    key, value = last.split("=")
    assert re.search(rf"Run \d \(.*{re.escape(key)}={value.split(',')[-1]}\b.*\): \w+Error: ", answer.stderr)


def test_a_killed_sweep_leaves_no_run_behind(tmp_path):
    child = f"import os, pathlib, time; pathlib.Path('{tmp_path}/pid').write_text(str(os.getpid())); time.sleep(60)"
    parent = (
        f"import sys; from grow.common.child_process import run_process; run_process([sys.executable, '-c', {child!r}])"
    )
    process = subprocess.Popen(python(parent), env={**os.environ, "PYTHONPATH": str(ROOT)})
    pid = tmp_path / "pid"
    _wait_until(lambda: pid.exists() and pid.read_text())
    process.kill()
    process.wait()
    _wait_until(lambda: not Path(f"/proc/{pid.read_text()}").exists() or _is_zombie(pid.read_text()))


def _is_zombie(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _wait_until(holds):
    deadline = time.monotonic() + 50
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_ablation_file_is_a_sweep(tmp_path):
    answer = train("-m", "experiment=ablation_variants", "trainer.max_tokens=100", cwd=tmp_path)
    assert answer.returncode == 2
    assert "5 failed" in answer.stdout


def test_a_sweep_that_composes_nonsense_starts_nothing_and_says_what_to_write_instead(tmp_path):
    answer = train("-m", "growth=hyperclone,none", "growth.source=x", cwd=tmp_path)
    assert answer.returncode == 2
    assert "model.grown_from=" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_slurm_launcher_says_so_where_there_is_no_slurm(tmp_path):
    only_python = str(Path(sys.executable).parent)
    answer = train("-m", "seed=0,1", "hydra/launcher=slurm", cwd=tmp_path, PATH=only_python)
    assert answer.returncode == 1
    assert "are you indeed on a slurm cluster" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
def test_a_second_launch_does_what_the_first_one_left(tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    overrides = [one for one in command_line(make_shards(shards), tmp_path) if not one.startswith("run_dir=")]
    sweep = ["-m", *overrides, "optimizer.max_grad_norm=0", "schedule.warmup_tokens=0", "optimizer.lr=1e18,0.01"]
    answer = train(*sweep, cwd=tmp_path, python=warm_python())
    assert states(answer) == [("optimizer.lr=1e+18", "failed"), ("optimizer.lr=0.01", "finished")], answer.stderr
    assert answer.returncode == 76
    assert "DivergedError" in answer.stdout
    again = train(*sweep, cwd=tmp_path, python=warm_python())
    assert states(again) == [("optimizer.lr=1e+18", "failed"), ("optimizer.lr=0.01", "skipped")], again.stderr


@pytest.mark.slow
def test_a_sweep_that_is_stopped_saves_its_run_and_leaves_the_rest_for_the_next_launch(tmp_path):
    shards = tmp_path / "shards"
    shards.mkdir()
    more = ("trainer.max_tokens=12800000", "checkpoint.every_tokens=1280")
    overrides = [one for one in command_line(make_shards(shards), tmp_path, *more) if not one.startswith("run_dir=")]
    process = subprocess.Popen(
        [warm_python(), str(ROOT / "train.py"), "-m", *overrides, "seed=0,1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 600
    while not list(tmp_path.glob("outputs/*/checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 75
    assert "seed=0  preempted" in printed and "seed=1  waiting" in printed
