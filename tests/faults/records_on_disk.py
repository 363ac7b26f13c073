"""Every JSON file that Grow reads again: a small whole one, and those who read it."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from grow.analysis.analyze_run import find_forgetting, growth_of, summarize
from grow.api import load_run
from grow.averaging.settings import SweepAveragesConfig
from grow.averaging.window_sweep import _validation_batches
from grow.common.provenance import clock_of, data_of, lineage_of, read_lineage, spent_on
from grow.common.records import read_record
from grow.common.rows import last_clock, read_analyses, read_rows, read_scores
from grow.data.shards import TokenShards
from grow.evaluation.data import EvaluationData
from grow.evaluation.scored_checkpoint import ScoredCheckpoint
from grow.growth.ledger import open_ledger
from grow.loggers.wandb_run import SentRows
from grow.report.measured import read_measured
from grow.report.runs import read_run
from grow.sweeps.sweep import RunOutcome
from grow.training.checkpoints.checkpoint_reader import Checkpoint, require_complete
from grow.training.run_directory import RunDirectory

CHECKPOINT = "checkpoints/step-00000010"
CLOCK = {"step": 10, "tokens": 100, "flops": 7000, "seconds": 1.5}
LINEAGE = {"source": "small", "digest": "d", "tokens": 5, "flops": None, "seconds": 2.0}
ROWS = [{**CLOCK, "step": 0, "tokens": 0, "val/loss": 5.0, "eval/mean/acc": 0.5}, {**CLOCK, "val/loss": 4.0}]
WHOLE = {
    "run.json": {
        "name": "run",
        "config": {
            "growth": {"name": "hyperclone"},
            "data": {"sequence_length": 4},
            "trainer": {"val_tokens": 8},
            "seed": 0,
        },
        "versions": {"python": "3.11"},
        "git_commit": None,
        "model": {"parameters": 100, "flops_per_token": 70, "sequence_length": 4},
        "lineage": LINEAGE,
        "data": {"path": "nowhere", "digest": "d", "train_tokens": 100},
        "started": "2026-01-01T00:00:00+00:00",
        "changes": [{"at": "2026-01-01T00:00:00+00:00", "keys": ["seed"]}],
        "status": "running",
    },
    "lineage.json": LINEAGE,
    "growth.json": {
        "growth": {"name": "hyperclone", "width": "tile"},
        "source": LINEAGE,
        "preserved": True,
        "factors": {"embed": 2, "layers": 1.5},
        "layers": [0, 1],
    },
    f"{CHECKPOINT}/state.json": {
        **CLOCK,
        "kind": "rolling",
        "sequences": 25,
        "updates": 10,
        "metrics_bytes": 99,
        "average": None,
    },
    f"{CHECKPOINT}/COMPLETE.json": {"state.json": "0" * 64},
    "analysis/step-00000010.json": {
        "name": "step-00000010",
        **CLOCK,
        "symmetry": {"a": 1.0},
        "effective_rank": {"a": 2.5},
        "numerical_rank": {"a": 3},
        "expert_overlap": {},
        "spectra": {"a": [2.0, 1.0]},
    },
    "analysis/forgetting.json": {
        "val/loss": {"own": 5.0, "worst": 5.5, "worst_at_tokens": 50, "drop": 0.5, "recovered_at_tokens": None}
    },
    "wandb.json": {"id": "abcd1234", "rows": 3, "tokens": 100, "columns": ["val/loss"]},
    "outcome.json": {"number": 0, "overrides": ["seed=1"], "state": "finished", "exit_code": 0, "note": ""},
    "progress.json": {"recipe": {"seed": 0}, "files": {"model.safetensors": "0" * 64}},
    "shards/manifest.json": {
        "format": "grow-token-shards",
        "version": 1,
        "dtype": "uint16",
        "vocab_size": 300,
        "eos_id": 0,
        "tokenizer_sha256": "0" * 64,
        "shards": [
            {"file": "train/0.npy", "split": "train", "source": "s", "start": 0, "tokens": 8, "sha256": "0" * 64}
        ],
    },
    "items/manifest.json": {
        "format": "grow-evaluation-data",
        "version": 1,
        "note": "",
        "tasks": {
            "copa": {
                "origin": "made up",
                "splits": {"test": {"file": "copa/test.jsonl", "items": 1, "sha256": sha256(b"{}").hexdigest()}},
            }
        },
    },
}


@dataclass(frozen=True)
class Kept:
    """A directory with all files of WHOLE and some rows, any of which a test may damage."""

    path: Path

    def write(self, name: str, content: bytes) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


def keep(directory: Path) -> Kept:
    """Write everything into a directory."""
    kept = Kept(directory)
    for name, content in WHOLE.items():
        kept.write(name, json.dumps(content).encode())
    kept.write("metrics.jsonl", rows_as_bytes(ROWS))
    kept.write("shards/train/0.npy", bytes(16))
    kept.write("items/copa/test.jsonl", b"{}")
    return kept


def rows_as_bytes(rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def sequence_length(run: Path) -> int:
    return ScoredCheckpoint(model=run, run=run, name="model", clock={}).sequence_length


def check_items(path: Path) -> None:
    data = EvaluationData.open(path / "items")
    data.check(["copa"])
    data.digest("copa")


READERS = {
    "run.json": [
        *(lineage_of, data_of, read_run, load_run, sequence_length),
        lambda run: RunDirectory(run).read(),
        lambda run: RunDirectory(run).check_continues({"seed": 0}, "changed"),
        lambda run: spent_on(run / CHECKPOINT),
        lambda run: _validation_batches(run, SweepAveragesConfig(run=str(run), output="")),
    ],
    "lineage.json": [read_lineage, spent_on],
    "growth.json": [growth_of, read_run, summarize],
    f"{CHECKPOINT}/state.json": [
        lambda run: clock_of(run / CHECKPOINT),
        lambda run: spent_on(run / CHECKPOINT),
        lambda run: Checkpoint(run / CHECKPOINT).state,
    ],
    f"{CHECKPOINT}/COMPLETE.json": [lambda run: require_complete(run / CHECKPOINT)],
    "analysis/step-00000010.json": [read_analyses, summarize, lambda run: read_measured("label", run)],
    "analysis/forgetting.json": [lambda run: read_measured("label", run)],
    "wandb.json": [lambda run: read_record(run / "wandb.json", SentRows)],
    "outcome.json": [lambda run: read_record(run / "outcome.json", RunOutcome)],
    "shards/manifest.json": [lambda run: TokenShards.open(run / "shards")],
    "items/manifest.json": [check_items],
}
"""File -> those who read it and refuse it where it is damaged."""

ROW_READERS = [read_rows, last_clock, read_scores, read_run, load_run, lambda run: find_forgetting(run, None, None)]


def read_all_rows(run: Path) -> None:
    """Read rows in each way that there is."""
    read_rows(run / "metrics.jsonl")
    for reader in ROW_READERS[1:]:
        reader(run)


def open_progress(run: Path) -> None:
    """Open a ledger, which begins anew where the last one is damaged."""
    directory = run / "unfinished"
    directory.mkdir(exist_ok=True)
    (directory / "progress.json").write_bytes((run / "progress.json").read_bytes())
    open_ledger(directory, {"seed": 0})
