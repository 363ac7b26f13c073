"""Runs of studies/measure_presets.sh in; growth_measured.csv and .png out, and the tables on the pages next to them.

python -m studies.report_presets runs=outputs/presets output=docs
"""

from pathlib import Path

from grow.cli.command import entry_point
from grow.cli.config import ReportPresetsConfig
from grow.common.places import CONFIG_DIR
from grow.growth import gallery


@entry_point("report_presets", ReportPresetsConfig)
def main(config: ReportPresetsConfig) -> None:
    """Print the best presets, or write down what all of them were measured to be worth."""
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from grow.report.presets import as_csv, as_markdown, best, read_shapes, rows, with_table

    if config.output is None:
        for row in best(rows(read_shapes(Path(config.runs), seed=0)), config.best or 0):
            print(row.shape, row.preset)
        return
    from grow.report.presets_figure import draw_shapes

    shapes, output = read_shapes(Path(config.runs)), Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    found, numbers = rows(shapes), output / "growth_measured.csv"
    measured = as_markdown(found)
    numbers.write_text(as_csv(found))
    draw_shapes(shapes, output / "growth_measured.png")
    tables = {"growth_measured.md": measured, "growth.md": gallery.table(CONFIG_DIR / "growth", numbers)}
    for page in (output / name for name in tables if (output / name).exists()):
        page.write_text(with_table(page.read_text(), tables[page.name]))
    print(measured)


if __name__ == "__main__":
    main()
