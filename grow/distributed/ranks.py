"""The ranks of a run's processes, read from the variables of torchrun or srun; nothing else reads them.

torchrun   RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE. Preferred where both are set, since it was started last.
srun       SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID, SLURM_STEP_TASKS_PER_NODE. Not SLURM_NTASKS: it is set in
           the whole allocation, where a script that calls python without srun is one process.

srun --gpus-per-task gives each process its own GPUs and hides the others: such a process is alone on its machine.

srun's values are exported under torchrun's names, which torch, Lightning and DeepSpeed all read.
"""

import os
import re
import socket
from dataclasses import dataclass

from grow.common.errors import ConfigError
from grow.distributed.settings import StrategySettings

_TORCHRUN = {
    "rank": "RANK",
    "world_size": "WORLD_SIZE",
    "local_rank": "LOCAL_RANK",
    "local_world_size": "LOCAL_WORLD_SIZE",
}
_FIRST_PORT, _PORTS, _STEPS = 10_000, 20_000, 16  # below the ephemeral ports


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """Rank and counts of this process, among all processes of the run and on its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    def __post_init__(self) -> None:
        if not (
            0 <= self.rank < self.world_size
            and 0 <= self.local_rank < self.local_world_size
            and self.world_size % self.local_world_size == 0
        ):
            raise ConfigError(
                f"expected as many processes on every machine, found rank {self.rank} of {self.world_size}, on its "
                f"machine {self.local_rank} of {self.local_world_size}. Were these variables set by hand?"
            )

    @classmethod
    def found(cls) -> "Ranks":
        """Read the ranks from the environment; without torchrun's or srun's variables there is one process.

        Raises:
            ConfigError: variables are missing, or contradict each other.
        """
        if "RANK" in os.environ or "WORLD_SIZE" in os.environ:
            return cls(**{field: _number(name, "torchrun") for field, name in _TORCHRUN.items()})
        if "SLURM_STEP_NUM_TASKS" in os.environ:
            rank, world_size = _number("SLURM_PROCID", "srun"), _number("SLURM_STEP_NUM_TASKS", "srun")
            local_rank, tasks = _number("SLURM_LOCALID", "srun"), _tasks_on_this_node()
            if _has_own_gpus(tasks):
                return cls(rank=rank, world_size=world_size)
            return cls(rank=rank, world_size=world_size, local_rank=local_rank, local_world_size=tasks)
        return cls()

    @classmethod
    def from_environment(cls, strategy: StrategySettings) -> "Ranks":
        """Read the ranks, and prepare the environment for `init_process_group("env://")`.

        Raises:
            ConfigError: the environment is inconsistent, or the strategy is for another number of processes.
        """
        ranks = cls.found()
        if strategy.devices not in (None, ranks.world_size):
            raise ConfigError(
                f"strategy.devices={strategy.devices}, but the number of processes is {ranks.world_size}. Start as "
                "many with torchrun --nproc_per_node=N or srun --ntasks-per-node=N, or leave strategy.devices out."
            )
        if strategy.kind == "single" and ranks.world_size > 1:
            raise ConfigError(
                f"strategy={strategy.name} is for one process, but {ranks.world_size} were started: each would train a "
                "model of its own into the same directory. Add strategy=ddp, or start without torchrun or srun."
            )
        if "SLURM_JOB_ID" in os.environ:
            ranks._export_as_torchrun()
        return ranks

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def _export_as_torchrun(self) -> None:
        """Set torchrun's variables for a Slurm job, where they are not set already.

        TORCHELASTIC_RUN_ID makes Lightning read them. Otherwise it would take the allocation's number of tasks for
        the run's, and handle Slurm's signals itself.
        """
        variables = {name: str(getattr(self, field)) for field, name in _TORCHRUN.items()}
        variables["GROUP_RANK"] = str(self.rank // self.local_world_size)
        variables["TORCHELASTIC_RUN_ID"] = os.environ["SLURM_JOB_ID"]
        if "MASTER_ADDR" not in os.environ:
            one_node = self.world_size == self.local_world_size or os.environ.get("SLURM_STEP_NUM_NODES") == "1"
            variables["MASTER_ADDR"] = "127.0.0.1" if one_node else _first_host()
        variables["MASTER_PORT"] = str(_port())
        for name, value in variables.items():
            os.environ.setdefault(name, value)


def restarted() -> bool:
    """Return whether torchrun or Slurm started this job again after it had stopped, with the same command."""
    counts = (os.environ.get(name, "") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return any(count not in ("", "0") for count in counts)


def _number(name: str, starter: str) -> int:
    found = os.environ.get(name)
    if found is None or not found.isdecimal():
        raise ConfigError(
            f"{name}: expected a number, as {starter} sets it, found {found or 'nothing'}. Start the run with torchrun "
            "or srun, or unset RANK and WORLD_SIZE to train in one process."
        )
    return int(found)


def _tasks_on_this_node() -> int:
    """Return the number of tasks of this node: entry SLURM_NODEID of a list such as 2(x3),1."""
    node, listed = _number("SLURM_NODEID", "srun"), os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    tasks: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", listed):
        tasks += [int(count)] * int(times or 1)
    if node >= len(tasks):
        raise ConfigError(f"SLURM_STEP_TASKS_PER_NODE={listed}: expected the tasks of each node, also of node {node}.")
    return tasks[node]


def _has_own_gpus(tasks: int) -> bool:
    """Return whether Slurm bound GPUs to each task and shows this one fewer of them than its node has tasks."""
    bound = "SLURM_GPUS_PER_TASK" in os.environ or "gres/gpu" in os.environ.get("SLURM_TRES_PER_TASK", "")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", os.environ.get("ROCR_VISIBLE_DEVICES"))
    return bound and visible is not None and len(visible.split(",")) < tasks


def _first_host() -> str:
    """Return the first node of the step, from a list such as gpu[03-05,9],login1.

    Raises:
        ConfigError: the name has no address; ranks would wait for each other until the time limit.
    """
    nodes = os.environ.get("SLURM_STEP_NODELIST", "")
    host = re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes).split(",")[0]
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        raise ConfigError(
            f"MASTER_ADDR: expected the first node of {nodes!r} to have an address, but {host!r} has none. "
            "Set MASTER_ADDR in the job script to an address that every node can reach."
        ) from None
    return host


def _port() -> int:
    """Return a port that is the same on all ranks of a step, and another one for neighbouring jobs and steps."""
    job, step = int(os.environ["SLURM_JOB_ID"]), int(os.environ.get("SLURM_STEP_ID", 0))
    return _FIRST_PORT + (job * _STEPS + step % _STEPS) % _PORTS
