"""The contestants of benchmarks/train.py: loops over one stock model, each stopping at a gate after every step."""

import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlamaConfig, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from benchmarks.cases import TrainCase
from grow.averaging.settings import AveragingSettings
from grow.data.data_module import TokenDataModule
from grow.data.shards import TokenShards
from grow.distributed.settings import StrategySettings
from grow.families.build import model_from_noise
from grow.training.fit import fit
from grow.training.plan import Plan, plan_run
from grow.training.run_directory import RunDirectory
from grow.training.settings import (
    CheckpointSettings,
    ObjectiveSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainableSettings,
    TrainerSettings,
)
from grow.training.start import Start
from grow.training.step.optimizer import build_optimizer

LOG_EVERY_STEPS = 10
ENDLESS_STEPS = 1_000_000
OPTIMIZER = OptimizerSettings(name="bench", lr=1e-3, weight_decay=0.1, max_grad_norm=1.0)


def work(name: str, case: TrainCase, scratch: Path, pipe: Connection) -> None:
    """Run a contestant until the process is killed. The process of a `Worker` begins here."""
    torch.set_num_threads(case.threads)
    gate = Gate(pipe, case.device)
    loops = {"grow": run_grow, "bare loop": run_bare, "lightning": run_lightning, "hf trainer": run_hf}
    os.chdir(scratch)
    loops[name](case, TokenShards.open(scratch / "shards"), gate)


class Gate:
    """Lets a loop pass for as many steps as it is told to, and reports how long they took."""

    def __init__(self, pipe: Connection, device: str) -> None:
        self._pipe, self._device = pipe, device
        self._losses: list[Tensor] = []
        self._left = 0

    def wait(self) -> None:
        """Wait to be told how many steps to take; a loop calls this first, before anything of it is built."""
        self._losses.clear()
        self._left = self._pipe.recv()
        self._started, self._cpu = time.perf_counter(), time.process_time()

    def passed(self, loss: Tensor) -> None:
        """Count an optimizer step that was taken on this loss; after the last one report, and wait again."""
        self._losses.append(loss.detach())
        self._left -= 1
        if self._left == 0:
            if self._device == "cuda":
                torch.cuda.synchronize()
            seconds, cpu = time.perf_counter() - self._started, time.process_time() - self._cpu
            losses = [float(loss) for loss in self._losses]
            self._pipe.send({"seconds": seconds, "cpu_seconds": cpu, "losses": losses})
            self.wait()


def make_model(case: TrainCase) -> PreTrainedModel:
    """Return the model, with the same weights for every contestant."""
    layers, embed, heads, ffn, length = case.sizes
    config = LlamaConfig(
        vocab_size=case.vocab,
        hidden_size=embed,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=ffn,
        max_position_embeddings=length,
        tie_word_embeddings=False,
    )
    return model_from_noise(config, seed=0).to(case.device).train()


def make_data(case: TrainCase, shards: TokenShards, **options: Any) -> TokenDataModule:
    """Return the data: the same batches in the same order for every contestant."""
    length = case.sizes[-1]
    return TokenDataModule(
        shards, sequence_length=length, micro_batch=case.micro_batch, seed=0, val_tokens=length, **options
    )


def autocast(case: TrainCase) -> Any:
    """Return the context that every forward pass runs in."""
    return torch.autocast(case.device, torch.bfloat16) if case.precision == "bf16" else nullcontext()


def stock_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Return the stock model's own loss: each token predicts the next. The batch is (B, T + 1) tokens."""
    return model(input_ids=batch[:, :-1], labels=batch[:, 1:], shift_labels=batch[:, 1:].clone(), use_cache=False).loss


def run_grow(case: TrainCase, shards: TokenShards, gate: Gate) -> None:
    """Run train.py's own fit."""
    gate.wait()
    start = Start(model=make_model(case), described="bench")
    data = partial(make_data, case, shards)
    fit(start, grow_plan(case), torch.device(case.device), RunDirectory(Path("run")), data, [AtGate(gate)])


def grow_plan(case: TrainCase) -> Plan:
    """Return the plan that train.py would make of the case."""
    return plan_run(
        trainer=TrainerSettings(
            name="bench",
            max_tokens=ENDLESS_STEPS * case.tokens_per_step,
            tokens_per_step=case.tokens_per_step,
            micro_batch=case.micro_batch,
            accelerator="gpu" if case.device == "cuda" else "cpu",
            precision=case.precision,
            compile="model" if case.compile else "none",
            log_every_steps=LOG_EVERY_STEPS,
            val_every_tokens=ENDLESS_STEPS * case.tokens_per_step,
            val_tokens=case.tokens_per_step,
            threads=case.threads,
        ),
        trainable=TrainableSettings(name="all", kind="all"),
        optimizer=OPTIMIZER,
        schedule=ScheduleSettings(name="constant", kind="wsd", warmup_tokens=0, decay_tokens=0),
        objective=ObjectiveSettings(name="bench"),
        checkpoint=CheckpointSettings(name="none", every_tokens=None),
        strategy=StrategySettings(name="single", kind="single"),
        averaging=AveragingSettings(name="none", kind="none"),
        seed=0,
        sequence_length=case.sizes[-1],
    )


class AtGate(L.Callback):
    """Passes the gate after every batch: a step is one batch here."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the step; Lightning calls this after every batch."""
        self._gate.passed(outputs["loss"])


def run_bare(case: TrainCase, shards: TokenShards, gate: Gate) -> None:
    """Run the loop that anyone would write first."""
    gate.wait()
    model = make_model(case)
    optimizer = build_optimizer(model, OPTIMIZER, {})
    forward = torch.compile(model, dynamic=False) if case.compile else model
    for step, batch in enumerate(make_data(case, shards).train_dataloader()):
        with autocast(case):
            loss = stock_loss(forward, batch.to(case.device, non_blocking=True))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if step % LOG_EVERY_STEPS == 0:
            loss.item()
        gate.passed(loss)


class PlainModule(L.LightningModule):
    """A LightningModule as its documentation writes it, except for clipping."""

    def __init__(self, case: TrainCase) -> None:
        super().__init__()
        self.model = make_model(case)
        if case.compile:
            self.model.compile(dynamic=False)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = stock_loss(self.model, batch)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.model, OPTIMIZER, {})

    def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any, gradient_clip_algorithm: Any) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), OPTIMIZER.max_grad_norm)  # stock refuses a fused optimizer in bf16


def run_lightning(case: TrainCase, shards: TokenShards, gate: Gate) -> None:
    """Run Lightning's Trainer with its CSV logger."""
    from lightning.pytorch.loggers import CSVLogger

    gate.wait()
    trainer = L.Trainer(
        accelerator="gpu" if case.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if case.precision == "bf16" else "32-true",
        max_steps=ENDLESS_STEPS,
        max_epochs=-1,
        gradient_clip_val=OPTIMIZER.max_grad_norm,
        logger=CSVLogger("csv"),
        log_every_n_steps=LOG_EVERY_STEPS,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[AtGate(gate)],
    )
    trainer.fit(PlainModule(case), make_data(case, shards).train_dataloader())


class Rows(IterableDataset[dict[str, Tensor]]):
    """The same sequences, one at a time, in the form the HF Trainer reads."""

    def __init__(self, batches: DataLoader[Tensor]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for batch in self._batches:
            for row in batch:
                yield {"input_ids": row[:-1], "labels": row[1:], "shift_labels": row[1:]}


class TrainerAtGate(Trainer):
    """The HF Trainer, passing the gate after every step."""

    def __init__(self, gate: Gate, **options: Any) -> None:
        super().__init__(**options)
        self.add_callback(PassGate(self, gate))

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        """Keep the loss of the step, which its end is not told."""
        self.last_loss = super().training_step(*arguments, **options)
        return self.last_loss


class PassGate(TrainerCallback):
    """Passes the gate after every optimizer step."""

    def __init__(self, trainer: TrainerAtGate, gate: Gate) -> None:
        self._trainer, self._gate = trainer, gate

    def on_step_end(self, *arguments: Any, **options: Any) -> None:
        """Count the step; the HF Trainer calls this after every optimizer step."""
        self._gate.passed(self._trainer.last_loss)


def run_hf(case: TrainCase, shards: TokenShards, gate: Gate) -> None:
    """Run the HF Trainer."""
    gate.wait()
    model = make_model(case)
    optimizer = build_optimizer(model, OPTIMIZER, {})
    trainer = TrainerAtGate(
        gate,
        model=model,
        args=TrainingArguments(
            output_dir="hf",
            per_device_train_batch_size=case.micro_batch,
            max_steps=ENDLESS_STEPS,
            use_cpu=case.device == "cpu",
            bf16=case.precision == "bf16",
            torch_compile=case.compile,
            max_grad_norm=OPTIMIZER.max_grad_norm,
            logging_steps=LOG_EVERY_STEPS,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        ),
        train_dataset=Rows(make_data(case, shards).train_dataloader()),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)),
    )
    trainer.train()
