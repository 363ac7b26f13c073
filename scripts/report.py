"""Compare finished runs with their baselines: speed-up table, speedup.json, speedup.md, speedup.png and report.html.

python scripts/report.py runs='[DIR,DIR]' baseline=DIR continued=DIR output=DIR
"""

from pathlib import Path

from grow.cli.command import entry_point
from grow.cli.config import ReportConfig


@entry_point("report", ReportConfig)
def main(config: ReportConfig) -> None:
    """Judge runs against training from noise and against training the source on, and publish the verdict."""
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from grow.common.console import table_console
    from grow.report.publish import as_tables, publish
    from grow.report.verdict import judge

    verdict = judge(
        config.runs, baseline=config.baseline, continued=config.continued, amortised_over=config.amortised_over
    )
    paths = publish(verdict, Path(config.output))
    console = table_console()
    for table in as_tables(verdict):
        console.print(table)
    for note in (f"{judged.arm.label}: {note}" for judged in verdict.arms for note in judged.notes):
        console.print(f"Note: {note}", markup=False, highlight=False)
    console.print("Wrote", ", ".join(str(path) for path in paths), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
