"""The processes of a run, as torchrun or srun describes them: the one place that reads their variables.

torchrun   RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE; it wins where both are there, since it was started last.
srun       SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID, SLURM_STEP_TASKS_PER_NODE. Not SLURM_NTASKS: an allocation
           has it too, and a script that calls python without srun is one process, however many tasks were asked for.

What srun says is passed on under torchrun's names, which torch, Lightning and DeepSpeed all understand.
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
_FIRST_PORT, _PORTS, _STEPS = 10_000, 20_000, 16  # below the ports that systems hand out themselves


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among those that were started together."""

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
        """The process that the environment describes; a single one where it says nothing.

        Raises:
            ConfigError: variables are missing, or contradict each other.
        """
        if "RANK" in os.environ or "WORLD_SIZE" in os.environ:
            return cls(**{field: _number(name, "torchrun") for field, name in _TORCHRUN.items()})
        if "SLURM_STEP_NUM_TASKS" in os.environ:
            return cls(
                rank=_number("SLURM_PROCID", "srun"),
                world_size=_number("SLURM_STEP_NUM_TASKS", "srun"),
                local_rank=_number("SLURM_LOCALID", "srun"),
                local_world_size=_tasks_on_this_node(),
            )
        return cls()

    @classmethod
    def from_environment(cls, strategy: StrategySettings) -> "Ranks":
        """The process that the environment describes, ready for `init_process_group("env://")`.

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
            ranks._speak_torchrun()
        return ranks

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def _speak_torchrun(self) -> None:
        """Describe a Slurm job in torchrun's variables; what is set already stays.

        TORCHELASTIC_RUN_ID tells Lightning to read them. It would else take the allocation's number of tasks for
        the run's, and answer Slurm's signals itself.
        """
        variables = {name: str(getattr(self, field)) for field, name in _TORCHRUN.items()}
        variables["GROUP_RANK"] = str(self.rank // self.local_world_size)
        variables["TORCHELASTIC_RUN_ID"] = os.environ["SLURM_JOB_ID"]
        if "MASTER_ADDR" not in os.environ:
            variables["MASTER_ADDR"] = _first_host() if self.world_size > self.local_world_size else "127.0.0.1"
        variables["MASTER_PORT"] = str(_port())
        for name, value in variables.items():
            os.environ.setdefault(name, value)


def _number(name: str, starter: str) -> int:
    found = os.environ.get(name)
    if found is None or not found.isdecimal():
        raise ConfigError(
            f"{name}: expected a number, as {starter} sets it, found {found or 'nothing'}. Start the run with torchrun "
            "or srun, or unset RANK and WORLD_SIZE to train in one process."
        )
    return int(found)


def _tasks_on_this_node() -> int:
    """Entry SLURM_NODEID of a list like 2(x3),1."""
    node, listed = _number("SLURM_NODEID", "srun"), os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    tasks: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", listed):
        tasks += [int(count)] * int(times or 1)
    if node >= len(tasks):
        raise ConfigError(f"SLURM_STEP_TASKS_PER_NODE={listed}: expected the tasks of each node, also of node {node}.")
    return tasks[node]


def _first_host() -> str:
    """The first of the step's nodes, of a list like gpu[03-05,9],login1.

    Raises:
        ConfigError: the name means nothing to the network; ranks would wait for one another until the time limit.
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
    """A port that all ranks of a step agree on, and that neighbouring jobs and steps do not share."""
    job, step = int(os.environ["SLURM_JOB_ID"]), int(os.environ.get("SLURM_STEP_ID", 0))
    return _FIRST_PORT + (job * _STEPS + step % _STEPS) % _PORTS
