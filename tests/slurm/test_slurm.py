"""Jobs and sweeps on a real Slurm: signalled, requeued, continued, cancelled; of a stand-in for train.py and of it."""

import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.slurm.conftest import ROOT
from tests.training.tiny import command_line

pytestmark = pytest.mark.slow
LONG = (
    *("trainer.max_tokens=12800", "trainer.val_every_tokens=6400", "trainer.log_every_steps=50"),
    "checkpoint.every_tokens=1280",
)
TWO_TASKS = ("--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1")
WIDER = ("model.embed=32", "model.heads=4", "model.ffn=48")
LAUNCHER = ("hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1")


def sbatch(slurm, log, *arguments):
    return slurm("sbatch", "--parsable", f"--output={log}", *TWO_TASKS, *arguments).strip()


def ended(slurm, job):
    slurm.wait(f"the end of {job}", lambda: slurm.facts(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"))
    return slurm.facts(job)


@pytest.fixture
def with_stand_in(slurm, tmp_path, monkeypatch):
    """An environment whose python only notes its arguments, then does what the test wrote into a file."""

    def arrange(then):
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "activate").write_text(f"PATH={tmp_path}/bin:$PATH\n")
        python = tmp_path / "bin" / "python"
        python.write_text(f'#!/bin/bash\necho "$@" >>{tmp_path}/started\n{then}\n')
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setitem(slurm.environment, "GROW_ENVIRONMENT", str(tmp_path))
        return lambda: (tmp_path / "started").read_text().splitlines() if (tmp_path / "started").exists() else []

    return arrange


WAITS_FOR_A_SIGNAL = """
[ "${SLURM_RESTART_COUNT:-0}" = 1 ] && exit 0
trap 'exit 75' USR1 TERM
while :; do sleep 0.1; done
"""


@pytest.mark.parametrize("signal", ["USR1", "TERM"])
def test_a_signalled_job_is_requeued_with_its_arguments(slurm, with_stand_in, tmp_path, signal):
    started = with_stand_in(WAITS_FOR_A_SIGNAL)
    job = sbatch(slurm, tmp_path / "log", "slurm/train.sbatch", "model=tiny", "growth.source=a b")
    slurm.wait("both tasks", lambda: len(started()) == 2)
    slurm("scancel", f"--signal={signal}", job)
    slurm.start_again(job, restarts=1)
    facts = ended(slurm, job)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), (tmp_path / "log").read_text()
    assert started() == ["train.py model=tiny growth.source=a b"] * 4


def test_a_job_signalled_before_it_could_save_is_requeued_too(slurm, with_stand_in, tmp_path):
    started = with_stand_in('[ "${SLURM_RESTART_COUNT:-0}" = 1 ] && exit 0\nsleep 60')
    job = sbatch(slurm, tmp_path / "log", "slurm/train.sbatch")
    slurm.wait("both tasks", lambda: len(started()) == 2)
    slurm("scancel", "--signal=USR1", job)
    slurm.start_again(job, restarts=1)
    assert ended(slurm, job)["JobState"] == "COMPLETED"


def test_a_diverged_job_ends_with_the_runs_exit_code_and_is_not_tried_again(slurm, with_stand_in, tmp_path):
    with_stand_in("exit $((76 * SLURM_PROCID))")
    facts = ended(slurm, sbatch(slurm, tmp_path / "log", "slurm/train.sbatch"))
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "76:0", "0")


def test_a_cancelled_job_stays_cancelled_although_its_run_asks_to_be_continued(slurm, with_stand_in, tmp_path):
    started = with_stand_in(WAITS_FOR_A_SIGNAL)
    job = sbatch(slurm, tmp_path / "log", "slurm/train.sbatch")
    slurm.wait("both tasks", lambda: len(started()) == 2)
    slurm("scancel", job)
    facts = ended(slurm, job)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0")


def test_the_sweep_script_is_an_array_with_one_line_of_overrides_a_job_and_requeues_them_singly(
    slurm, with_stand_in, tmp_path
):
    started = with_stand_in("[ $SLURM_ARRAY_TASK_ID$SLURM_RESTART_COUNT = 4 ] && exit 75\nexit 0")
    array = sbatch(slurm, tmp_path / "log", "--ntasks-per-node=1", "slurm/sweep.sbatch", "model=tiny_2x")
    slurm.start_again(f"{array}_4", restarts=1)
    for task in range(5):
        assert ended(slurm, f"{array}_{task}")["JobState"] == "COMPLETED"
    growths = ("hyperclone", "hyperclone_noisy", "hyperclone_diagonal", "hyperclone_diagonal_noisy", "none", "none")
    assert sorted(started()) == sorted(f"train.py model=tiny_2x growth={growth}" for growth in growths)


def test_the_evaluation_script_names_the_checkpoint_and_the_tasks(slurm, with_stand_in, tmp_path):
    started = with_stand_in("exit 0")
    job = sbatch(slurm, tmp_path / "log", "--ntasks-per-node=1", "slurm/eval.sbatch", "outputs/run/model", "seed=1")
    assert ended(slurm, job)["JobState"] == "COMPLETED"
    assert started() == ["eval.py checkpoint=outputs/run/model evaluation=harness10 seed=1"]


@pytest.fixture
def launch(slurm, tmp_path):
    """(script, *overrides) -> a sweep on the cluster, launched from a directory of its own."""
    processes = []

    def start(script, *overrides):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / script), "-m", *overrides, *LAUNCHER],
            cwd=tmp_path,
            env=slurm.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def array_of(slurm):
    found = []
    slurm.wait("a job array", lambda: found.extend(slurm("squeue", "-h", "--format=%F").split()) or found)
    return found[0]


@pytest.mark.parametrize("signal", ["USR2", "TERM"])  # submitit's own, which it sends at the time limit; preemption
def test_a_preempted_job_of_a_sweep_continues_and_a_failed_one_leaves_the_others_alone(slurm, launch, tmp_path, signal):
    sweep = launch("tests/slurm/stand_in.py", "seed=0,1,2", "strategy=ddp", "hydra.launcher.tasks_per_node=2")
    array = array_of(slurm)
    slurm.wait("both ranks", lambda: starts(tmp_path, seed=1) == ["0", "0"])
    slurm("scancel", f"--signal={signal}", f"{array}_1")
    slurm.start_again(f"{array}_1", restarts=1)
    printed, errors = sweep.communicate(timeout=600)
    assert [line.split()[:2] for line in printed.splitlines()[-4:-1]] == [
        ["seed=0", "finished"],
        ["seed=1", "finished"],
        ["seed=2", "failed"],
    ], printed + errors
    assert "DivergedError: the loss is nan" in printed
    assert sweep.returncode == 76
    assert starts(tmp_path, seed=1) == ["0", "0", "1", "1"]


def test_a_cancelled_job_of_a_sweep_stays_cancelled(slurm, launch, tmp_path):
    sweep = launch("tests/slurm/stand_in.py", "seed=0,1")
    array = array_of(slurm)
    slurm.wait("a start", lambda: starts(tmp_path, seed=1) == ["0"])
    slurm("scancel", f"{array}_1")
    printed, errors = sweep.communicate(timeout=600)
    assert "its job was cancelled" in printed, printed + errors
    assert sweep.returncode == 75
    slurm.wait("the end of the job", lambda: slurm.facts(f"{array}_1")["JobState"] != "COMPLETING")
    assert slurm.facts(f"{array}_1")["JobState"] == "CANCELLED"


def starts(directory, seed):
    return [line for path in directory.glob(f"outputs/*-seed{seed}-*/starts") for line in path.read_text().split()]


def weights(run_dir):
    return load_file(run_dir / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def quiet(slurm, shards_dir, tmp_path_factory):
    """The directory of a run of two ranks that nobody disturbed."""
    run = tmp_path_factory.mktemp("quiet") / "run"
    job = sbatch(slurm, run.with_suffix(".log"), "slurm/train.sbatch", *two_ranks(shards_dir, run))
    assert ended(slurm, job)["JobState"] == "COMPLETED", run.with_suffix(".log").read_text()
    return run


def two_ranks(shards_dir, run_dir):
    return command_line(shards_dir, run_dir, "strategy=ddp", "strategy.devices=2", *LONG)


def test_two_ranks_that_are_signalled_end_with_the_weights_of_a_quiet_job(slurm, quiet, shards_dir, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    job = sbatch(slurm, log, "slurm/train.sbatch", *two_ranks(shards_dir, run))
    slurm.wait("a checkpoint", lambda: list(run.glob("checkpoints/step-*")))
    slurm("scancel", "--signal=USR1", job)
    slurm.start_again(job, restarts=1)
    assert ended(slurm, job)["JobState"] == "COMPLETED", log.read_text()
    assert "stopped by SIGUSR1" in log.read_text()
    assert f"checkpoint {run}/checkpoints/step-" in log.read_text()
    expected, found = weights(quiet), weights(run)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_sweep_over_growths_survives_preemption_and_ends_in_one_report(slurm, launch, quiet, shards_dir, tmp_path):
    shared = command_line(shards_dir, tmp_path, *WIDER, *LONG, f"model.grown_from={quiet}/model")
    overrides = [override for override in shared if not override.startswith(("run_dir=", "growth="))]
    sweep = launch("train.py", "growth=hyperclone,hyperclone_noisy,none", *overrides)
    array = array_of(slurm)
    noisy = "outputs/tiny-hyperclone_noisy-*"
    slurm.wait("a checkpoint", lambda: list(tmp_path.glob(f"{noisy}/checkpoints/step-*")))
    slurm("scancel", "--signal=USR2", f"{array}_1")
    slurm.start_again(f"{array}_1", restarts=1)
    printed, errors = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, printed + errors
    assert printed.endswith("3 finished\n")
    (run,) = tmp_path.glob(noisy)
    job_log = "".join(path.read_text() for path in tmp_path.glob(f"outputs/.submitit/{array}_1/*_log.*"))
    assert "stopped by SIGUSR2" in job_log and f"checkpoint outputs/{run.name}" in job_log
    grown, noise = tmp_path.glob("outputs/tiny-hyperclone*"), tmp_path.glob("outputs/tiny-noise-*")
    report = [f"runs=[{','.join(map(str, grown))}]", f"baseline={next(noise)}", f"output={tmp_path / 'report'}"]
    subprocess.run(
        [sys.executable, "scripts/report.py", *report], cwd=ROOT, check=True, timeout=600, env=slurm.environment
    )
    arms = (tmp_path / "report" / "speedup.md").read_text()
    assert all(name in arms for name in ("hyperclone", "hyperclone_noisy", "noise"))
    assert (tmp_path / "report" / "speedup.png").stat().st_size > 0
