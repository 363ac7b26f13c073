"""Time and peak memory of growing a checkpoint of random weights, against copying its bytes and against peers.

    python -m benchmarks.growth                                    # a Llama of 1B in bfloat16, 2.1 GB
    python -m benchmarks.growth --mergekit PYTHON --hypercloning PYTHON CHECKOUT
    python -m benchmarks.growth --model pythia_70m --rounds 5

Three growths of one checkpoint: twice the layers (against mergekit's passthrough), twice the width (against
apple/ml-hypercloning), twice the width with noise that cancels. A round runs every contestant once, each in a fresh
process, flushed to the disk, in an order that turns. A ratio is taken within a round, since a machine is faster at one
time than at another. Peers run as they are, under the Python that is given; those that are not given are left out.
Where a peer makes the same tensors, they are compared bit by bit.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cases import LLAMA_1B, make_random_checkpoint
from grow.cli.closed_pipe import ends_with_its_reader
from grow.common.provenance import git_commit, versions, write_json

ROOT = Path(__file__).parents[1]
SAME = {"embed": 1, "heads": 1, "ffn": 1}
CASES = {
    "depth": ("g_stack", {**SAME, "layers": 2}, "mergekit"),
    "width": ("hyperclone", {"embed": 2, "heads": 2, "ffn": 2}, "hypercloning"),
    "noise": ("hyperclone_noisy", {"embed": 2, "heads": 2, "ffn": 2}, None),
}


@ends_with_its_reader()
def main() -> None:
    """Make a source, measure every case, print, and write the figures as JSON."""
    options = read_options()
    import torch  # here, so that help and mistakes answer at once

    figures: dict[str, Any] = {"load": os.getloadavg(), "versions": versions(), "commit": git_commit()}
    with tempfile.TemporaryDirectory(dir=options.directory) as scratch:
        source = Path(scratch).absolute() / "source"
        make_random_checkpoint(options.model, source, torch.bfloat16)
        for name in options.cases:
            rounds, same = measure(options, name, source)
            figures[name] = {"rounds": rounds, "equal_tensors": same}
            print("\n".join(summary(name, rounds, same)), flush=True)
            if options.output:
                write_json(Path(options.output), figures)
    print(f"load {figures['load'][0]:.1f} at the start, {os.getloadavg()[0]:.1f} at the end")


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=LLAMA_1B, help="model configuration of the source, and overrides")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="files at a time; threads of the peers")
    parser.add_argument("--shard-gb", type=float, default=1.0)
    parser.add_argument("--mergekit", metavar="PYTHON", help="of an environment with mergekit")
    parser.add_argument(
        "--hypercloning", nargs=2, metavar=("PYTHON", "CHECKOUT"), help="with what it needs, and its code"
    )
    parser.add_argument("--directory", default=None, help="where to put the files; its disk is what is measured")
    parser.add_argument("--output", default=None, help="file for the figures")
    return parser.parse_args()


def measure(options: argparse.Namespace, case: str, source: Path) -> tuple[list[dict], str]:
    """Run every contestant once a round, and return the rounds and how equal the peer's tensors are.

    Copies are of the first round's growth.
    """
    from grow.cli.config import compose

    preset, scale, peer = CASES[case]
    settings = asdict(compose([f"growth={preset}", f"growth.source={source}"]).growth)
    asked = {"growth": settings, "scale": scale, "workers": options.workers, "shard_gb": options.shard_gb}
    kept, made = source.with_name("kept"), source.with_name("made")
    same, rounds = "", []
    for number in range(options.rounds):
        figures = {}
        names = ["grow", "copy", *([peer] if peer and getattr(options, peer) else [])]
        for name in names[number % len(names) :] + names[: number % len(names)] if number else names:
            figures[name] = run(options, name, kept if name == "copy" else source, made, asked)
            if number == 0 and name == peer:
                same = equal_tensors(kept, made)
            made.rename(kept) if not kept.exists() else shutil.rmtree(made)
        rounds.append(figures)
    shutil.rmtree(kept)
    if peer and not getattr(options, peer):
        same = f"{peer} was not given (--{peer})"
    return rounds, same


def run(options: argparse.Namespace, name: str, source: Path, output: Path, asked: dict) -> dict[str, float]:
    """Run one contestant in a fresh process; return its figures, and its peak of memory that no file stands behind."""
    peer = getattr(options, name, None)
    python = (peer[0] if isinstance(peer, list) else peer) or sys.executable
    asked = {**asked, "code": str(Path(peer[1]).resolve()) if isinstance(peer, list) else None}
    command = [str(Path(shutil.which(python) or python).absolute()), "-m", "benchmarks.growth_contestants"]
    command += [name, str(source), str(output), json.dumps(asked)]
    environment = {key: value for key, value in os.environ.items() if peer is None or key != "PYTHONPATH"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    anonymous: list[int] = []
    watch = threading.Thread(target=watch_memory, args=(process, anonymous))
    lines = []
    for line in process.stdout:
        if line == "ready\n":
            watch.start()
        lines.append(line)
    if process.wait():
        sys.exit(f"{name} failed:\n{''.join(lines)}")
    watch.join()
    return {**json.loads(lines[-1]), "peak_anonymous": max(anonymous) - anonymous[0]}


def watch_memory(process: subprocess.Popen, seen: list[int]) -> None:
    """Note a process's anonymous memory until it ends; mapped files, which the system may drop, are not in it."""
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        seen += [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:")]
        time.sleep(0.02)


def equal_tensors(ours: Path, theirs: Path) -> str:
    """Say how many of our tensors a peer has bit by bit."""
    import torch

    from grow.families.weights import WeightReader

    first, second = WeightReader(ours), WeightReader(theirs)
    equal = sum(name in second and torch.equal(first.read(name), second.read(name)) for name in first.names)
    return f"{equal} of {len(first.names)} tensors are bit-equal to the peer's"


def summary(case: str, rounds: list[dict], same: str) -> list[str]:
    """Return lines to print: gigabytes a second, memory, and ratios as median [least, most] of the rounds."""
    lines = [
        f"{case}: growth={CASES[case][0]}, {rounds[0]['grow']['bytes'] / 1e9:.1f} GB written, {len(rounds)} rounds"
    ]
    for name in rounds[0]:
        seconds = statistics.median(each[name]["seconds"] for each in rounds)
        peak, anonymous = (max(each[name][key] for each in rounds) / 1e9 for key in ("peak", "peak_anonymous"))
        speed = rounds[0][name]["bytes"] / 1e9 / seconds
        memory = f"peak memory {peak:5.2f} GB, {anonymous:5.2f} without mapped files"
        lines += [f"  {name:13} {seconds:7.1f} s  {speed:5.2f} GB/s  {memory}"]
    lines += [f"  grow / copy: {spread(each['grow']['seconds'] / each['copy']['seconds'] for each in rounds)}"]
    lines += [f"  its writing / copy: {spread(each['grow']['writing'] / each['copy']['seconds'] for each in rounds)}"]
    for peer in rounds[0].keys() - {"grow", "copy"}:
        lines += [f"  {peer} / grow: {spread(each[peer]['seconds'] / each['grow']['seconds'] for each in rounds)}"]
    lines += [f"  largest tensor {rounds[0]['grow']['largest'] / 1e9:.2f} GB; {same}".rstrip("; ")]
    return lines


def spread(ratios: Iterable[float]) -> str:
    """Return median [least, most]."""
    found = sorted(ratios)
    return f"{statistics.median(found):.2f} [{found[0]:.2f}, {found[-1]:.2f}]"


if __name__ == "__main__":
    main()
