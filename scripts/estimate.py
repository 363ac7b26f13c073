"""What a run will need, before it starts: parameters, FLOPs, memory of a GPU by part, hours and disk. No network.

python scripts/estimate.py model=olmo_2.9b strategy=zero2 strategy.devices=64 trainer=paper [json=true] [output=FILE]
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grow.cli.command import entry_point
from grow.cli.config import EstimateConfig
from grow.common.errors import ConfigError
from grow.common.gpus import GPUS, gpu_memory_bytes, peak_flops
from grow.common.provenance import write_json
from grow.estimate.closed_form import Counts, Memory, disk, hours, memory_table
from grow.estimate.settings import EstimateSettings

GB = 1e9


@entry_point("estimate", EstimateConfig)
def main(config: EstimateConfig) -> None:
    """Count the model on the meta device and reckon; the same overrides as train.py."""
    memory_bytes, peak = _gpu(config.estimate)

    from grow.estimate.counts import count  # imported here: mistakes answer before torch is there
    from grow.training.step.objective import chosen_rows

    counts = count(config.model, config.data.sequence_length)
    tokens = config.trainer.micro_batch * config.data.sequence_length
    rows = config.objective.chunk_rows
    rows = chosen_rows(tokens, counts.vocabulary, "cuda") if rows is None else min(rows, tokens)
    gpus = _gpus(config)
    table = memory_table(counts, gpus=gpus, tokens=tokens, rows=rows)
    flops = counts.flops_per_token * config.trainer.max_tokens
    needed = hours(flops, gpus=gpus, peak_flops=peak, mfu=config.estimate.mfu)
    usable = memory_bytes * (1 - config.estimate.reserve)
    found = {
        "model": {**asdict(counts), "body": counts.body},
        "batch": {"gpus": gpus, "tokens_per_micro_batch": tokens, "loss_chunk_rows": rows},
        "gpu": {"name": config.estimate.gpu, "memory_bytes": memory_bytes, "usable_bytes": usable, "peak_flops": peak},
        "memory_bytes": {kind: {key: _as_json(value) for key, value in row.items()} for kind, row in table.items()},
        "fits": {kind: {key: _fits(value, usable) for key, value in row.items()} for kind, row in table.items()},
        "time": {"flops": flops, "mfu": config.estimate.mfu, "hours": needed, "gpu_hours": needed * gpus},
        "disk_bytes": disk(counts.parameters, config.checkpoint, config.trainer.max_tokens),
        "notes": _notes(config, gpus, tokens),
    }
    if config.output is not None:
        Path(config.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(config.output), found)
    if config.json:
        print(json.dumps(found, indent=2))
    else:
        _print(config, counts, table, found)


def _gpu(settings: EstimateSettings) -> tuple[float, float]:
    """Memory in bytes and peak in FLOP/s of one GPU.

    Raises:
        ConfigError: the GPU is not in the table and its figures were not given.
    """
    memory = settings.memory_gb * GB if settings.memory_gb else gpu_memory_bytes(settings.gpu)
    peak = settings.peak_tflops * 1e12 if settings.peak_tflops else peak_flops(settings.gpu)
    if memory is None or peak is None:
        raise ConfigError(
            f"estimate.gpu={settings.gpu}: expected one of {', '.join(GPUS)}. For another GPU give estimate.memory_gb "
            "and estimate.peak_tflops."
        )
    return memory, peak


def _gpus(config: EstimateConfig) -> int:
    return 1 if config.strategy.kind == "single" else config.strategy.devices or 1


def _notes(config: EstimateConfig, gpus: int, tokens: int) -> list[str]:
    notes = []
    if config.trainer.precision == "fp32":
        notes.append("the peak is bfloat16's: at trainer.precision=fp32 expect a much lower estimate.mfu.")
    if config.trainable.kind != "all":
        notes.append(f"trainable={config.trainable.name} needs less: all numbers are of the whole model, trained.")
    if gpus == 1 and config.strategy.kind != "single":
        notes.append(f"strategy={config.strategy.name} on one GPU is the plain strategy; strategy.devices=N for more.")
    if config.strategy.kind == "single" and (config.strategy.devices or 1) > 1:
        notes.append("strategy=single trains on one GPU, whatever strategy.devices says.")
    if config.trainer.tokens_per_step % (tokens * gpus):
        notes.append(
            f"train.py would refuse trainer.tokens_per_step={config.trainer.tokens_per_step:,}: it is no multiple of "
            f"micro-batch x sequence x GPUs = {tokens * gpus:,}."
        )
    return notes


def _as_json(memory: Memory | None) -> dict[str, float] | None:
    return memory and {**asdict(memory), "total": memory.total}


def _fits(memory: Memory | None, usable: float) -> bool | None:
    return memory and memory.total <= usable


def _print(
    config: EstimateConfig, counts: Counts, table: dict[str, dict[str, Memory | None]], found: dict[str, Any]
) -> None:
    from rich.console import Console

    time, disk_bytes, gpu = found["time"], found["disk_bytes"], found["gpu"]
    lines = {
        "model": f"{config.model.name}: {counts.parameters:,} parameters = {counts.embedding:,} embedding "
        f"+ {counts.body:,} body + {counts.head:,} head{' (tied)' if counts.head == 0 else ''}",
        "compute": f"{counts.flops_per_token / 1e9:,.3f} GFLOP a token, {time['flops']:.3g} FLOPs for "
        f"{config.trainer.max_tokens:,} tokens",
        "time": f"{time['hours']:,.1f} h on {found['batch']['gpus']} x {gpu['name']} at {time['mfu']:.0%} of "
        f"{gpu['peak_flops'] / 1e12:,.0f} TFLOP/s ({time['gpu_hours']:,.1f} GPU-hours)",
        "disk": f"{disk_bytes['checkpoint'] / GB:,.2f} GB a checkpoint, at most {disk_bytes['at_most_kept'] / GB:,.2f} "
        f"GB of them at one time, {disk_bytes['written'] / GB:,.2f} GB written in all; final model "
        f"{disk_bytes['model'] / GB:,.2f} GB",
        "batch": f"micro-batch {config.trainer.micro_batch} x {config.data.sequence_length} tokens, loss in chunks of "
        f"{found['batch']['loss_chunk_rows']:,} rows",
    }
    print("\n".join(f"{name:<8} {line}" for name, line in lines.items()))
    console = Console()
    console = console if console.is_terminal else Console(width=140)  # a file or pipe has no width to fit
    for part in (_parts_table(config, table), _totals_table(table, gpu)):
        console.print(part)
    for note in found["notes"]:
        print(f"Note: {note}")


def _parts_table(config: EstimateConfig, table: dict[str, dict[str, Memory | None]]) -> Any:
    """Every strategy by part, at the configured precision."""
    from rich.table import Table

    precision = config.trainer.precision
    parts = list(Memory.__dataclass_fields__)
    names = [name.replace("_", " ") for name in parts]
    shown = Table("strategy", *names, "total", title=f"GB on one GPU, precision={precision}", title_justify="left")
    for kind, row in table.items():
        memory = row[precision]
        cells = [f"{getattr(memory, part) / GB:,.2f}" if memory else "-" for part in (*parts, "total")]
        shown.add_row(kind, *cells, style="bold" if kind == config.strategy.kind else None)
    return shown


def _totals_table(table: dict[str, dict[str, Memory | None]], gpu: dict[str, Any]) -> Any:
    from rich.table import Table

    usable = gpu["usable_bytes"]
    title = f"total GB on one {gpu['name']}; {usable / GB:,.1f} of {gpu['memory_bytes'] / GB:,.0f} GB may be used"
    shown = Table("strategy", *next(iter(table.values())), title=title, title_justify="left")
    for kind, row in table.items():
        shown.add_row(kind, *(_verdict(memory, usable) for memory in row.values()))
    return shown


def _verdict(memory: Memory | None, usable: float) -> str:
    if memory is None:
        return "-"
    return f"{memory.total / GB:,.2f} {'fits' if memory.total <= usable else 'does NOT fit'}"


if __name__ == "__main__":
    main()
