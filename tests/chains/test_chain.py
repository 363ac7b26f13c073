"""A chain as a command: killed in the middle of a link and continued, it ends with the bits of one that was not."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from grow.chains.links import links_of
from grow.cli.config import ChainConfig, compose
from tests.training.tiny import command_line, make_shards
from tests.warm_python import warm_python

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def start(*given):
    return subprocess.Popen(
        [warm_python(), str(ROOT / "scripts" / "chain.py"), *given],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_a_chain_killed_in_its_second_link_continues_there_and_ends_with_the_same_bits_and_a_report(tmp_path):
    import train

    more = ("chain=g_stack", "chain.links.stacked.trainable=new_layers", "model.layers=4", "trainer.max_tokens=12800")
    given = [one for one in command_line(make_shards(tmp_path), tmp_path / "chain", *more) if one != "growth=none"]
    links = links_of(compose(given, "chain", ChainConfig), given, compose)
    train.main.__wrapped__(compose(links[0].overrides))
    train.main.__wrapped__(compose([*links[1].overrides, f"run_dir={tmp_path / 'quiet'}"]))
    stacked_run = links[1].directory

    process = start(*given)
    deadline = time.monotonic() + 600
    while not list(stacked_run.checkpoints.glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    link = (stacked_run.path / ".lock").read_text().split()[1]
    os.kill(int(link), signal.SIGKILL)  # it has a process group of its own
    process.wait()
    assert not stacked_run.is_finished

    again = start(*given)
    printed, _ = again.communicate(timeout=600)
    assert again.returncode == 0, printed
    assert "01_base: 1 layers of width 16, from noise; 0 of 12,800 tokens done; this link is finished" in printed
    assert "start    checkpoint" in printed
    expected, found = (load_file(at / "model.safetensors") for at in (tmp_path / "quiet" / "model", stacked_run.model))
    assert all(expected[name].equal(found[name]) for name in expected)

    base, stacked = json.loads((tmp_path / "chain" / "report" / "chain.json").read_text())
    assert (base["tokens"][0], stacked["tokens"][0], stacked["tokens"][-1]) == (0, base["tokens"][-1], 12800)
    assert stacked["flops"][0] == base["flops"][-1]
    assert (tmp_path / "chain" / "report" / "report.html").is_file()
