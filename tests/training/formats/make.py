"""Makes the kept checkpoint of the current format: `python -m tests.training.formats.make DIRECTORY`.

The checkpoints beside this file are read for ever: run this once for a new format, before it is released, and commit
what it made. Each directory holds a run of RUN that was stopped at step 6 of 10, without run.json, which names places.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from grow.cli.config import compose
from tests.training.tiny import command_line, make_shards

RUN = (
    *("model.layers=1", "model.embed=8", "model.heads=1", "model.kv_heads=1", "model.ffn=8", "checkpoint.keep_last=9"),
    *("averaging=lawa", "averaging.k=2", "averaging.every_steps=2", "averaging.start_tokens=0"),
)
STEP = 6


def make(directory: Path) -> None:
    """Train the run, and keep its rows and the checkpoint of step 6."""
    import train

    with tempfile.TemporaryDirectory() as place:
        shards = Path(place) / "shards"
        shards.mkdir()
        run = Path(place) / "run"
        train.main.__wrapped__(compose(command_line(make_shards(shards), run, *RUN)))
        kept = Path("checkpoints") / f"step-{STEP:08}"
        shutil.copytree(run / kept, directory / kept)
        shutil.copy(run / "metrics.jsonl", directory / "metrics.jsonl")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
