"""Try windows over one run's checkpoints: a table, sweep.json and sweep.png of validation loss against step for each.

python scripts/sweep_averages.py run=RUN output=DIR
python scripts/sweep_averages.py run=RUN output=DIR k='[3,5,10]' every_steps='[20,40]' val_tokens=16384
"""

from pathlib import Path

from grow.averaging.settings import SweepAveragesConfig
from grow.cli.command import entry_point


@entry_point("sweep_averages", SweepAveragesConfig)
def main(config: SweepAveragesConfig) -> None:
    """Measure, print, and write."""
    from rich.console import Console
    from rich.table import Table

    from grow.averaging.window_figure import draw_curves
    from grow.averaging.window_sweep import as_json, as_table, sweep
    from grow.common.provenance import write_json

    curves = sweep(config)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "sweep.json", as_json(config, curves))
    lines = {curve.label: (curve.steps, curve.losses) for curve in curves}
    draw_curves(
        lines, output / "sweep.png", y_label="validation loss (nats a token)", title=f"Averages of {config.run}"
    )
    header, rows = as_table(curves)
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a file or pipe has no width to fit
    console.print(table)
    console.print("Wrote", f"{output / 'sweep.json'}, {output / 'sweep.png'}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
