"""The contestants of benchmarks/distributed.py, each run by every rank: train.py's loop and the bare DeepSpeed engine.

Rank 0 writes times.json: the moment at which each optimizer step was done, in seconds.
"""

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import lightning.pytorch as L
import torch
from torch import nn
from transformers import PreTrainedModel

from grow.cli.config import compose
from grow.cli.run_config import RunConfig
from grow.data.data_module import TokenDataModule
from grow.families.build import model_from_noise, parameter_count
from grow.families.registry import stock_config
from grow.preparation.corpus import open_data
from grow.training.engine.environment import StartedOutside
from grow.training.engine.zero import build_zero
from grow.training.fit import fit
from grow.training.plan import Plan
from grow.training.run_directory import RunDirectory
from grow.training.session import data_of, device_of, process_group
from grow.training.start import Start
from grow.training.step.objective import NextTokenLoss
from grow.training.step.optimizer import build_optimizer


def train_grow(overrides: list[str], output: Path) -> int:
    """Do what train.py does between its start and its export."""
    run, plan, data, model = _prepare(overrides)
    device, stopwatch = device_of(plan), Stopwatch()
    with process_group(plan, device):
        fit(Start(model=model, described="noise"), plan, device, RunDirectory(run.directory), data, [stopwatch])
        _write_times(plan, output, stopwatch.times)
    return 0


class Stopwatch(L.Callback):
    """Notes the moment at which each optimizer step was done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note the first batch after each step; Lightning calls this after every micro-batch."""
        if pl_module.clock.step > len(self.times):
            self.times.append(time.perf_counter())


def train_bare(overrides: list[str], output: Path) -> int:
    """Run the loop of DeepSpeed's own documentation, with the same loss, optimizer and settings."""
    _, plan, data, model = _prepare(overrides)
    times = []
    with process_group(plan, device_of(plan)):
        engine = _engine(plan, model)
        batches = iter(data().train_dataloader())
        for _ in range(plan.steps_from(0)):
            for batch in itertools.islice(batches, plan.batch.accumulation):
                engine.backward(engine(batch))
                engine.step()
            times.append(time.perf_counter())
        _write_times(plan, output, times)
    return 0


def _engine(plan: Plan, model: PreTrainedModel) -> Any:
    """Return a DeepSpeed engine with the settings that train.py gives it."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")
    config = {
        **build_zero(plan, device_of(plan), parameter_count(model), StartedOutside(plan.ranks)).config,
        "gradient_accumulation_steps": plan.batch.accumulation,
        "gradient_clipping": plan.optimizer.max_grad_norm,
    }
    module = ModelWithLoss(model)
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=build_optimizer(model, plan.optimizer, {}), config=config, dist_init_required=False
    )
    if plan.strategy.kind == "zero3":
        deepspeed.zero.register_external_parameter(module, model.get_output_embeddings().weight)
    return engine


class ModelWithLoss(nn.Module):
    """A stock model with Grow's loss: (B, T + 1) tokens in, loss out."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model, self.loss = model.train(), NextTokenLoss()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        hidden = self.model.base_model(input_ids=batch[:, :-1], use_cache=False).last_hidden_state
        return self.loss(hidden, self.model.get_output_embeddings().weight, batch[:, 1:])


def _write_times(plan: Plan, output: Path, times: list[float]) -> None:
    """Write times.json on rank 0; called inside the group, whose end is the end of the process."""
    if plan.ranks.is_first:
        (output / "times.json").write_text(json.dumps(times))


def _prepare(overrides: list[str]) -> tuple[RunConfig, Plan, Callable[..., TokenDataModule], PreTrainedModel]:
    """Return configuration, plan, data and a model from noise: the same for every contestant."""
    run = compose(overrides)
    plan = run.plan()
    plan = plan.on(device_of(plan).type)
    data = data_of(run.data, open_data(run.data), plan)
    return run, plan, data, model_from_noise(stock_config(run.model), run.seed)


CONTESTANTS = {"grow": train_grow, "bare": train_bare}
