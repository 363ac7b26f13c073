"""A real Slurm for the tests of this folder: started by the first that asks, ended after the last."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.training.tiny import make_shards

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
HAS_SLURM = os.geteuid() == 0 and all(
    shutil.which(daemon, path=f"{os.environ['PATH']}:/usr/sbin") for daemon in ("slurmctld", "slurmd", "munged")
)


@dataclass(frozen=True)
class Slurm:
    """Commands of a cluster of one node."""

    environment: dict[str, str]

    def __call__(self, *command: str) -> str:
        for _ in range(5):  # on a busy machine a command now and then gets no answer
            done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
            if done.returncode == 0:
                return done.stdout
            time.sleep(1)
        raise AssertionError(f"{command}: {done.returncode}, {done.stderr}")

    def facts(self, job: str) -> dict[str, str]:
        """KEY=VALUE of `scontrol show job`."""
        return dict(re.findall(r"(\w+)=(\S*)", self("scontrol", "show", "job", job)))

    def wait(self, what: str, happened: Callable[[], bool], seconds: float = 600) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
            time.sleep(0.1)

    def start_again(self, job: str, restarts: int) -> None:
        """Spare a requeued job the two minutes that Slurm lets it wait; a second later, since it counts in seconds."""
        self.wait("requeued", lambda: self.facts(job).get("Restarts") == str(restarts))
        self.wait("pending", lambda: self.facts(job)["JobState"] == "PENDING")
        self("scontrol", "update", f"jobid={job}", "StartTime=now+2")


@pytest.fixture(scope="session")
def slurm(tmp_path_factory) -> Slurm:
    if not HAS_SLURM:
        pytest.skip("needs slurmctld, slurmd and munged, and root to start them")
    state = tmp_path_factory.mktemp("cluster")
    try:
        subprocess.run([HERE / "slurm_up.sh", state, str(_free_port())], check=True, timeout=60)
        yield Slurm(
            {
                **{name: value for name, value in os.environ.items() if not name.startswith("SLURM")},
                "SLURM_CONF": str(state / "slurm.conf"),
                "GROW_ENVIRONMENT": str(Path(sys.executable).parents[1]),
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
            }
        )
    finally:
        subprocess.run([HERE / "slurm_down.sh", state], timeout=60)


def _free_port() -> int:
    """A port that is free together with the next one."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


@pytest.fixture(scope="session")
def shards_dir(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))
