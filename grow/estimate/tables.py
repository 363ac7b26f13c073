"""An estimate as lines and tables for the terminal. Memory is in GB (1e9 bytes)."""

from dataclasses import fields

from rich.table import Table

from grow.estimate.closed_form import Memory
from grow.estimate.estimate_run import RunEstimate

_GB = 1e9


def summary_lines(estimate: RunEstimate) -> list[str]:
    """Return a line each on the model, compute, time, disk and batch."""
    counts, run, gpu, disk_gb = estimate.counts, estimate.run, estimate.gpu, _in_gb(estimate.disk_bytes)
    lines = {
        "model": f"{run.name}: {counts.parameters:,} parameters = {counts.embedding:,} embedding "
        f"+ {counts.body:,} body + {counts.head:,} head{' (tied)' if counts.head == 0 else ''}",
        "compute": f"{counts.flops_per_token / 1e9:,.3f} GFLOP a token, {estimate.flops:.3g} FLOPs for "
        f"{run.trainer.max_tokens:,} tokens",
        "time": f"{estimate.hours:,.1f} h on {run.gpus} x {gpu.name} at {estimate.mfu:.0%} of "
        f"{gpu.peak_flops / 1e12:,.0f} TFLOP/s ({estimate.gpu_hours:,.1f} GPU-hours)",
        "disk": f"{disk_gb['checkpoint']} GB a checkpoint, at most {disk_gb['at_most_kept']} GB of them at one time, "
        f"{disk_gb['written']} GB written in all; final model {disk_gb['model']} GB",
        "grace": f"{estimate.grace_s} s to save and exit when told to go: sbatch --signal=USR1@{estimate.grace_s}",
        "batch": f"micro-batch {run.trainer.micro_batch} x {run.data.sequence_length} tokens, loss in chunks of "
        f"{estimate.loss_chunk_rows:,} rows",
    }
    return [f"{name:<8} {line}" for name, line in lines.items()]


def parts_table(estimate: RunEstimate) -> Table:
    """Return the memory of one GPU by part: a row each strategy, at the configured precision."""
    precision, strategy = estimate.run.trainer.precision, estimate.run.strategy.kind
    parts = [part.name for part in fields(Memory)]
    title = f"GB on one GPU, precision={precision}"
    table = Table("strategy", *(part.replace("_", " ") for part in parts), "total", title=title, title_justify="left")
    for kind, row in estimate.memory.items():
        memory = row[precision]
        cells = [f"{getattr(memory, part) / _GB:,.2f}" if memory else "-" for part in (*parts, "total")]
        table.add_row(kind, *cells, style="bold" if kind == strategy else None)
    return table


def totals_table(estimate: RunEstimate) -> Table:
    """Return the whole memory of one GPU, and whether it fits: a row each strategy, a column each precision."""
    gpu, fits = estimate.gpu, estimate.fits()
    usable_gb, memory_gb = gpu.usable_bytes / _GB, gpu.memory_bytes / _GB
    title = f"total GB on one {gpu.name}; {usable_gb:,.1f} of {memory_gb:,.0f} GB may be used"
    table = Table("strategy", *next(iter(estimate.memory.values())), title=title, title_justify="left")
    for kind, row in estimate.memory.items():
        table.add_row(kind, *(_verdict(memory, fits[kind][precision]) for precision, memory in row.items()))
    return table


def _verdict(memory: Memory | None, fits: bool | None) -> str:
    if memory is None:
        return "-"
    return f"{memory.total / _GB:,.2f} {'fits' if fits else 'does NOT fit'}"


def _in_gb(sizes: dict[str, int]) -> dict[str, str]:
    return {name: f"{size / _GB:,.2f}" for name, size in sizes.items()}
