"""Try scales and drops of a merge: a table, sweep.csv and sweep.png of the held-out loss of every data source.

python scripts/sweep_merges.py base=DIR models='[A,B]' corpus=SHARDS scale='[0.3,0.5,1]' table=DIR
python scripts/sweep_merges.py base=DIR models='[A,B]' corpus=SHARDS merging=dare drop='[0.5,0.9]' table=DIR output=DIR
"""

from pathlib import Path

from grow.cli.command import entry_point
from grow.common.printed import say
from grow.merging.settings import SweepMergesConfig


@entry_point("sweep_merges", SweepMergesConfig)
def main(config: SweepMergesConfig) -> None:
    """Measure every point, print a table, and say which is best on tokens that did not choose it."""
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from rich.table import Table

    from grow.common.console import table_console
    from grow.merging.merge_sweep import sweep_merges, write_table

    sweep = sweep_merges(config)
    paths = write_table(sweep, Path(config.table), config.best_by)
    sources = list(sweep.best.losses)
    for title, points in (("chooses", [*sweep.models, *sweep.points]), ("scores", sweep.scored)):
        table = Table("model", *sources, "mean", title=f"held-out loss, {sweep.tokens} tokens a source: {title}")
        for point in points:
            table.add_row(point.label, *(f"{loss:.4f}" for loss in point.losses.values()), f"{point.by(None):.4f}")
        table_console().print(table)
    tied = f"; equal in four digits: {'; '.join(sweep.ties)}" if sweep.ties else ""
    say(f"best       {sweep.best.label}, by {config.best_by or 'the mean of all sources'}{tied}")
    say("Wrote", ", ".join(map(str, [*paths, *([config.output] if config.output else [])])))


if __name__ == "__main__":
    main()
