"""Ranks from torchrun's and srun's variables: who is first, where they meet, and what is refused."""

import os
import socket

import pytest

from grow.common.errors import ConfigError
from grow.distributed.ranks import Ranks
from grow.distributed.settings import StrategySettings

SINGLE, DDP = (StrategySettings(name=kind, kind=kind) for kind in ("single", "ddp"))
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "there"}
BATCH_SCRIPT = {  # what a job script sees that asked for two tasks, and has not called srun
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_TASKS_PER_NODE": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_JOB_NODELIST": "n1",
}
SRUN = {
    **BATCH_SCRIPT,
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_STEP_NODELIST": "n1",
}
TWO_NODES = {
    **SRUN,
    "SLURM_PROCID": "5",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "localhost,n[01-03]",
}

OWN_GPU = {"SLURM_GPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "0"}  # srun --gpus-per-task=1 hides the others


@pytest.fixture
def environment(monkeypatch):
    """(variables) -> the process environment holds these and no other variable of torchrun or Slurm."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "TORCHELASTIC"))}
    for name in (*TORCHRUN, "GROUP_RANK", "MASTER_PORT"):
        kept.pop(name, None)

    def arrange(variables):
        monkeypatch.setattr(os, "environ", {**kept, **variables})

    return arrange


def sizes(ranks):
    return ranks.rank, ranks.world_size, ranks.local_rank, ranks.local_world_size


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1, 0, 1)),
        (TORCHRUN, (3, 4, 1, 2)),
        (SRUN, (1, 2, 1, 2)),
        (TWO_NODES, (5, 8, 1, 4)),
        ({**SRUN, **TORCHRUN}, (3, 4, 1, 2)),
        ({**TWO_NODES, **OWN_GPU}, (5, 8, 0, 1)),
        ({**SRUN, **OWN_GPU, "CUDA_VISIBLE_DEVICES": "0,1"}, (1, 2, 1, 2)),
    ],
    ids=["alone", "torchrun", "srun", "srun on two nodes", "torchrun inside srun", "a GPU each", "all GPUs for each"],
)
def test_ranks_are_what_the_starter_said(environment, variables, expected):
    environment(variables)
    assert sizes(Ranks.from_environment(DDP)) == expected


@pytest.mark.parametrize("strategy", [SINGLE, DDP])
def test_python_called_by_a_job_script_without_srun_is_one_process_that_waits_for_nobody(environment, strategy):
    environment(BATCH_SCRIPT)
    assert sizes(Ranks.from_environment(strategy)) == (0, 1, 0, 1)
    assert os.environ["WORLD_SIZE"] == "1"


def test_an_interactive_shell_of_an_allocation_is_one_process(environment):
    one = {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}
    environment({**BATCH_SCRIPT, **one})
    assert Ranks.from_environment(SINGLE).world_size == 1


def test_what_srun_says_is_passed_on_as_torchrun_would_say_it(environment):
    environment(TWO_NODES)
    Ranks.from_environment(DDP)
    passed = {name: os.environ[name] for name in (*TORCHRUN, "GROUP_RANK")}
    assert passed == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "GROUP_RANK": "1",
        "MASTER_ADDR": "localhost",
    }
    assert sizes(Ranks.from_environment(DDP)) == (5, 8, 1, 4)


def test_tasks_with_a_gpu_each_meet_on_their_own_node_where_there_is_one(environment):
    """The name of a single node need not have an address."""
    environment({**SRUN, **OWN_GPU, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "no-such-host"})
    Ranks.from_environment(DDP)
    assert (os.environ["LOCAL_RANK"], os.environ["MASTER_ADDR"]) == ("0", "127.0.0.1")


def test_lightning_leaves_slurms_variables_and_signals_alone(environment):
    from lightning.fabric.plugins.environments import TorchElasticEnvironment

    environment(SRUN)
    assert not TorchElasticEnvironment.detect()
    Ranks.from_environment(DDP)
    assert TorchElasticEnvironment.detect()  # Lightning asks it before Slurm's


def test_one_node_meets_at_the_loopback_address_because_its_name_may_not_resolve(environment):
    environment(SRUN)
    Ranks.from_environment(DDP)
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"


def test_every_rank_of_a_step_gets_one_port_and_other_jobs_and_steps_another(environment):
    def port(**more):
        environment({**TWO_NODES, **more})
        Ranks.from_environment(DDP)
        return int(os.environ["MASTER_PORT"])

    assert port() == port(SLURM_PROCID="4", SLURM_LOCALID="0")
    ports = {port(SLURM_JOB_ID=str(job), SLURM_STEP_ID=str(step)) for job in range(4711, 4811) for step in range(3)}
    assert len(ports) == 300
    assert all(10_000 <= port < 30_000 for port in ports)


def test_a_given_meeting_point_is_kept(environment):
    environment({**TWO_NODES, "SLURM_STEP_NODELIST": "n9", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"})
    Ranks.from_environment(DDP)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("10.0.0.1", "29500")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu7", "gpu7"),
        ("gpu7,gpu9", "gpu7"),
        ("gpu[03-05,9],login1", "gpu03"),
        ("gpu[12]", "gpu12"),
        ("r[1-2]n[03-04]-ib", "r1n03-ib"),
    ],
)
def test_the_first_host_of_a_node_list_is_the_meeting_point(environment, monkeypatch, nodes, first):
    monkeypatch.setattr("grow.distributed.ranks.socket.getaddrinfo", lambda host, port: [])
    environment({**TWO_NODES, "SLURM_STEP_NODELIST": nodes})
    Ranks.from_environment(DDP)
    assert os.environ["MASTER_ADDR"] == first


@pytest.mark.parametrize(
    ("variables", "match"),
    [
        ({"WORLD_SIZE": "2"}, "RANK: expected a number, as torchrun sets it, found nothing"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "LOCAL_WORLD_SIZE: expected"),
        ({**TORCHRUN, "RANK": "one"}, "RANK: expected a number, as torchrun sets it, found one"),
        ({**TORCHRUN, "RANK": "4"}, "rank 4 of 4"),
        ({**TORCHRUN, "LOCAL_RANK": "2"}, "on its machine 2 of 2"),
        ({**SRUN, "SLURM_PROCID": "2"}, "rank 2 of 2"),
        ({name: value for name, value in SRUN.items() if name != "SLURM_LOCALID"}, "SLURM_LOCALID: expected"),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": ""}, "SLURM_STEP_TASKS_PER_NODE=: expected the tasks of each node"),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1"}, "as many processes on every"),
    ],
)
def test_variables_that_contradict_each_other_are_refused_by_name(environment, variables, match):
    environment(variables)
    with pytest.raises(ConfigError, match=match):
        Ranks.from_environment(DDP)


def test_a_first_node_without_an_address_is_refused_instead_of_waited_for(environment, monkeypatch):
    def unknown(host, port):
        raise socket.gaierror(f"{host} is unknown")

    monkeypatch.setattr("grow.distributed.ranks.socket.getaddrinfo", unknown)
    environment({**TWO_NODES, "SLURM_STEP_NODELIST": "n[1-2]"})
    with pytest.raises(ConfigError, match=r"'n1' has none\. Set MASTER_ADDR"):
        Ranks.from_environment(DDP)


@pytest.mark.parametrize("variables", [SRUN, {**TORCHRUN, "RANK": "1"}])
def test_several_processes_are_refused_for_a_strategy_of_one(environment, variables):
    environment(variables)
    with pytest.raises(ConfigError, match="strategy=single is for one process"):
        Ranks.from_environment(SINGLE)


def test_the_devices_that_a_run_expects_must_be_those_that_were_started(environment):
    environment(SRUN)
    two = StrategySettings(name="ddp", kind="ddp", devices=2)
    assert Ranks.from_environment(two).world_size == 2
    environment(BATCH_SCRIPT)
    with pytest.raises(ConfigError, match=r"strategy\.devices=2, but the number of processes is 1"):
        Ranks.from_environment(two)
