"""Puts a preempted job of a sweep back into the queue, unless it was cancelled.

submitit, which starts such jobs, requeues a job as soon as it is signalled. That is too early: the job would end while
its run is being saved. So the signal is kept from it (grow/common/child_process.py) and raised again here, once the run
is saved. submitit then does the rest by its own rules: rank 0 asks Slurm to requeue, and time-outs count against
max_num_timeout.
"""

import os
import signal
import subprocess
import sys
import time

from grow.distributed.ranks import Ranks

_TRIES, _PAUSE_S = 5, 2.0


def in_submitit() -> bool:
    """Return whether this process is a job of submitit, which hydra/launcher=slurm starts."""
    return "SUBMITIT_EXECUTOR" in os.environ


def requeue() -> str:
    """Requeue the job this process belongs to and leave, or return why that was not done."""
    if not in_submitit():
        return "the same command continues it"
    try:
        if "SLURM_JOB_ID" in os.environ and not _is_wanted(_job()):
            return "its job was cancelled; the same command continues it"
        signal.raise_signal(signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"])
    except Exception as error:  # submitit's: no retries are left, or Slurm refused; or there is no scontrol here
        return f"{error} The same command continues it"
    if not Ranks.found().is_first:  # with 0: a site may end all ranks when one fails, the first one before it has asked
        sys.exit(0)
    return "submitit did not requeue it; the same command continues it"


def _job() -> str:
    """Return Slurm's name of this job; a member of an array may share its number with the whole array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]


def _is_wanted(job: str) -> bool:
    """Return whether Slurm still counts a job as running; scontrol would bring even a cancelled one back."""
    for _ in range(_TRIES):  # a busy controller does not always answer
        shown = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True)
        if shown.returncode == 0:
            return "JobState=RUNNING" in shown.stdout
        time.sleep(_PAUSE_S)
    return True
