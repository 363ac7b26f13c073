"""Checkpoints inside a run: written whole or not at all, and read back only when every digest holds.

checkpoints/step-00000500/
    config.json, model.safetensors     a stock model directory: it can be loaded, averaged or grown as it is
    optimizer.safetensors              PARAMETER/exp_avg, PARAMETER/exp_avg_sq, PARAMETER/step
    rng.safetensors                    state of the random generators of every rank
    state.json                         tokens, seconds, sequences read, length of metrics.jsonl, ...
    COMPLETE.json                      SHA-256 of every other file; written last

Nothing here is pickled, so nothing read here can run code.
"""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from grow.common.clock import Clock
from grow.common.errors import CheckpointError
from grow.common.provenance import read_json, write_json
from grow.families.weights import new_directory
from grow.training.strategy import barrier, gather, is_first

COMPLETE_FILE = "COMPLETE.json"
STATE_FILE = "state.json"
OPTIMIZER_FILE = "optimizer.safetensors"
RNG_FILE = "rng.safetensors"


@dataclass(kw_only=True, slots=True)
class RunState:
    """Where a run stood, apart from its tensors."""

    step: int
    tokens: int
    seconds: float
    sequences: int
    """Sequences that all ranks together have read."""
    metrics_bytes: int
    """Length of metrics.jsonl; what comes after it is cut when the run continues here."""
    input_copies: dict[str, int] = field(default_factory=dict)
    """Weights whose inputs a growth repeated, and how often."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One complete checkpoint."""

    path: Path

    @property
    def state(self) -> RunState:
        return RunState(**read_json(self.path / STATE_FILE))

    def restore_optimizer(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Give every parameter of a model its optimizer state back.

        Raises:
            CheckpointError: the state is of other parameters.
        """
        tensors = load_file(self.path / OPTIMIZER_FILE)
        parameters = dict(model.named_parameters())
        if {name.rpartition("/")[0] for name in tensors} != parameters.keys():
            raise CheckpointError(f"{self.path / OPTIMIZER_FILE}: expected the state of this model's parameters.")
        for name, tensor in tensors.items():
            parameter, _, key = name.rpartition("/")
            owner = parameters[parameter]
            optimizer.state[owner][key] = tensor.to(owner.device)

    def restore_rng(self, rank: int) -> None:
        """Put this rank's random generators where they were; a rank that did not exist then keeps its own."""
        tensors = load_file(self.path / RNG_FILE)
        if f"{rank}.cpu" in tensors:
            torch.set_rng_state(tensors[f"{rank}.cpu"])
        if f"{rank}.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors[f"{rank}.cuda"])


@dataclass(kw_only=True, slots=True)
class CheckpointWriter:
    """Writes a run's checkpoints and keeps the newest."""

    directory: Path
    keep_last: int
    sequence_length: int
    input_copies: Mapping[str, int]

    def write(self, model: PreTrainedModel, optimizer: Optimizer, clock: Clock, metrics_bytes: int) -> None:
        """Write a checkpoint. Every rank calls this; the first one writes while the others wait."""
        rng = gather(_rng_state())
        if is_first():
            state = self._state(clock, metrics_bytes)
            self._write(model, _optimizer_tensors(model, optimizer), _by_rank(rng), state)
        barrier()

    def _state(self, clock: Clock, metrics_bytes: int) -> RunState:
        return RunState(
            step=clock.tokens // clock.tokens_per_step,
            tokens=clock.tokens,
            seconds=clock.seconds,
            sequences=clock.tokens // self.sequence_length,
            metrics_bytes=metrics_bytes,
            input_copies=dict(self.input_copies),
        )

    def _write(
        self, model: PreTrainedModel, optimizer: dict[str, Tensor], rng: dict[str, Tensor], state: RunState
    ) -> None:
        final = self.directory / f"step-{state.step:08}"
        for stale in self.directory.glob(".step-*.partial"):  # of a run that was killed while it saved
            shutil.rmtree(stale)
        if final.exists():  # a torn one of the same step
            _remove(final)
        needed = sum(tensor.nbytes for tensor in (*model.parameters(), *optimizer.values()))
        with new_directory(final, needed) as partial:
            model.save_pretrained(partial)
            save_file(optimizer, partial / OPTIMIZER_FILE)
            save_file(rng, partial / RNG_FILE)
            write_json(partial / STATE_FILE, asdict(state))
            write_json(partial / COMPLETE_FILE, _digests(partial))
        for old in _directories(self.directory)[: -self.keep_last]:
            _remove(old)


def newest_checkpoint(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files are what was written, and a line about each newer one that is not."""
    skipped = []
    for path in reversed(_directories(directory)):
        wrong = _difference(path)
        if wrong is None:
            return Checkpoint(path), skipped
        skipped.append(f"Skipped {path}: {wrong}.")
    return None, skipped


def _directories(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*"))


def _difference(path: Path) -> str | None:
    """What keeps a checkpoint from being complete, if anything."""
    if not (path / COMPLETE_FILE).exists():
        return f"it has no {COMPLETE_FILE}, so it was never finished"
    try:
        expected = read_json(path / COMPLETE_FILE)
    except CheckpointError as error:
        return str(error).rstrip(".")
    found = _digests(path)
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return f"{', '.join(wrong)} is not what was written" if wrong else None


def _digests(path: Path) -> dict[str, str]:
    return {file.name: _sha256(file) for file in sorted(path.iterdir()) if file.name != COMPLETE_FILE}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    (path / COMPLETE_FILE).unlink(missing_ok=True)  # first, so that a half-removed checkpoint is no checkpoint
    shutil.rmtree(path)


def _optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": tensor
        for name, parameter in model.named_parameters()
        for key, tensor in optimizer.state[parameter].items()
    }


def _rng_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _by_rank(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{rank}.{kind}": tensor for rank, state in enumerate(states) for kind, tensor in state.items()}
