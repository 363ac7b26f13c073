"""ZeRO through train.py's loop against the bare DeepSpeed engine, and what a checkpoint costs a run.

    python -m benchmarks.distributed                     # ZeRO-2, two processes on a CPU
    python -m benchmarks.distributed --strategy zero3

Both train the same model on the same batches with the same engine settings, in rounds that alternate; what is
reported are ratios of median step times, never times.
"""

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.chaos import fork_ranks, import_everything, wait

SHAPE = (
    *("model=tiny_2x", "growth=none", "data.sequence_length=128", "trainer.accelerator=cpu", "seed=0"),
    *("trainer.micro_batch=2", "trainer.tokens_per_step=2048", "trainer.val_tokens=128", "trainer.log_every_steps=50"),
    *("trainer.val_every_tokens=1000000000", "schedule.warmup_tokens=0"),
)
WARM_UP_STEPS = 3


def main() -> None:
    """Alternate the contestants, then measure saves; print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", default="zero2", choices=("zero1", "zero2", "zero3"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    import_everything()
    overrides = [*SHAPE, f"strategy={options.strategy}", f"trainer.max_tokens={2048 * options.steps}"]
    with tempfile.TemporaryDirectory() as directory:
        measure = partial(_measured, Path(directory), overrides, options.processes)
        ratios = []
        for number in range(options.rounds):
            contestants = [("grow", ()), ("bare", ())][:: 1 if number % 2 else -1]
            medians = {name: statistics.median(measure(name)) for name, _ in contestants}
            ratios.append(medians["grow"] / medians["bare"])
            print(f"round {number + 1}: step time of train.py / bare engine = {ratios[-1]:.3f}", flush=True)
        low, high = interval(ratios)
        ratio = f"{statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}]"
        print(f"{options.strategy}, {options.processes} processes: {ratio}")
        _report_stalls(measure)


def interval(ratios: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    return medians[49], medians[1949]


def _report_stalls(measure) -> None:
    """A save stalls the step it falls into; the rest of its work is beside later steps, or not."""
    quiet = statistics.median(measure("grow"))
    for background in ("true", "false"):
        saving = measure("grow", "checkpoint.every_tokens=8192", f"checkpoint.background={background}")
        saves = [seconds for step, seconds in enumerate(saving, WARM_UP_STEPS + 1) if step % 4 == 0]
        others = [seconds for step, seconds in enumerate(saving, WARM_UP_STEPS + 1) if step % 4]
        print(
            f"checkpoint in the {'background' if background == 'true' else 'foreground'}: its step takes "
            f"{statistics.median(saves) / quiet:.2f} quiet steps, the others {statistics.median(others) / quiet:.2f}"
        )


def _measured(directory: Path, overrides: list[str], processes: int, contestant: str, *more: str) -> list[float]:
    """Seconds of each step after the warm-up, on rank 0."""
    run = Path(tempfile.mkdtemp(dir=directory))
    body = {"grow": _train, "bare": _bare}[contestant]
    every = () if any(item.startswith("checkpoint.") for item in more) else ("checkpoint=none",)
    codes = wait(
        fork_ranks(processes, partial(body, [*overrides, *every, *more, f"run_dir={run}/run"], run), run / "log")
    )
    if set(codes) != {0}:
        raise RuntimeError(f"{contestant} ended with {codes}:\n{(run / 'log').read_text()[-3000:]}")
    times = json.loads((run / "times.json").read_text())
    return [after - before for before, after in itertools.pairwise(times)][WARM_UP_STEPS:]


def _prepare(overrides: list[str]):
    from grow.cli.config import compose
    from grow.data.corpus import open_data
    from grow.data.data_module import TokenDataModule
    from grow.families.build import model_from_noise
    from grow.families.registry import stock_config
    from grow.training.session import device_of

    run = compose(overrides)
    plan = run.plan()
    device = device_of(plan)
    data = partial(
        TokenDataModule,
        open_data(run.data),
        sequence_length=run.data.sequence_length,
        micro_batch=run.trainer.micro_batch,
        seed=run.seed,
        val_tokens=run.trainer.val_tokens,
        rank=plan.ranks.rank,
        world_size=plan.ranks.world_size,
    )
    return run, plan, device, data, model_from_noise(stock_config(run.model), run.seed)


def _train(overrides: list[str], output: Path) -> int:
    """What train.py does between its start and its export."""
    import lightning.pytorch as L

    from grow.training.fit import fit
    from grow.training.run_directory import RunDirectory
    from grow.training.session import process_group
    from grow.training.start import Start

    run, plan, device, data, model = _prepare(overrides)
    times: list[float] = []

    class Stopwatch(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            if pl_module.clock.step > len(times):
                times.append(time.perf_counter())

    with process_group(plan, device):
        fit(Start(model=model, described="noise"), plan, device, RunDirectory(run.directory), data, [Stopwatch()])
        if plan.ranks.is_first:
            (output / "times.json").write_text(json.dumps(times))
    return 0


def _bare(overrides: list[str], output: Path) -> int:
    """The loop of DeepSpeed's own documentation, with the same loss, optimizer and settings."""
    import deepspeed
    import torch
    from torch import nn

    from grow.families.build import parameter_count
    from grow.training.engine.environment import StartedOutside
    from grow.training.engine.zero import build_zero
    from grow.training.session import process_group
    from grow.training.step.objective import NextTokenLoss
    from grow.training.step.optimizer import build_optimizer

    _, plan, device, data, model = _prepare(overrides)

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss = model.train(), NextTokenLoss()

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            hidden = self.model.base_model(input_ids=batch[:, :-1], use_cache=False).last_hidden_state
            return self.loss(hidden, self.model.get_output_embeddings().weight, batch[:, 1:])

    times = []
    with process_group(plan, device):
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed("gloo")
        config = {
            **build_zero(plan, device, parameter_count(model), StartedOutside(plan.ranks)).config,
            "gradient_accumulation_steps": plan.batch.accumulation,
            "gradient_clipping": plan.optimizer.max_grad_norm,
        }
        module = Loss()
        engine, *_ = deepspeed.initialize(
            model=module, optimizer=build_optimizer(model, plan.optimizer, {}), config=config, dist_init_required=False
        )
        if plan.strategy.kind == "zero3":
            deepspeed.zero.register_external_parameter(module, model.get_output_embeddings().weight)
        batches = iter(data().train_dataloader())
        for _ in range(plan.steps_from(0)):
            for batch in itertools.islice(batches, plan.batch.accumulation):
                engine.backward(engine(batch))
                engine.step()
            times.append(time.perf_counter())
        if plan.ranks.is_first:
            (output / "times.json").write_text(json.dumps(times))
    return 0


if __name__ == "__main__":
    main()
