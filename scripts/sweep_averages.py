"""Try windows over one run's checkpoints: a table, sweep.json and sweep.png of validation loss against step for each.

python scripts/sweep_averages.py run=RUN output=DIR
python scripts/sweep_averages.py run=RUN output=DIR k='[3,5,10]' every_steps='[20,40]' val_tokens=16384
"""

from grow.averaging.settings import SweepAveragesConfig
from grow.cli.command import entry_point
from grow.common.printed import say


@entry_point("sweep_averages", SweepAveragesConfig)
def main(config: SweepAveragesConfig) -> None:
    """Measure every window, write the curves, and print a table."""
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from rich.table import Table

    from grow.averaging.window_sweep import as_table, sweep, write_sweep
    from grow.common.console import table_console

    curves = sweep(config)
    paths = write_sweep(config, curves)
    header, rows = as_table(curves)
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    table_console().print(table)
    say("Wrote", ", ".join(str(path) for path in paths))


if __name__ == "__main__":
    main()
