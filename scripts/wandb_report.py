"""Make a W&B report of the speed-up of finished runs: tables, and live curves over tokens, FLOPs and seconds.

python scripts/wandb_report.py runs='[DIR,DIR]' baseline=DIR continued=DIR output=FILE     the report as JSON, offline
python scripts/wandb_report.py ... publish=true entity=TEAM                                upload it
"""

from pathlib import Path

from grow.cli.command import entry_point
from grow.cli.config import WandbReportConfig
from grow.common.printed import say
from grow.common.provenance import write_record


@entry_point("wandb_report", WandbReportConfig)
def main(config: WandbReportConfig) -> None:
    """Judge runs as scripts/report.py does, and write or upload a W&B report of the verdict."""
    # Heavy imports wait until here, so that help and configuration errors answer at once.
    from grow.report.verdict import judge
    from grow.report.wandb_report import as_spec, build_report, not_logged, upload

    verdict = judge(
        config.runs, baseline=config.baseline, continued=config.continued, amortised_over=config.amortised_over
    )
    for name in not_logged(verdict):
        say(f"Note: {name} was not logged to W&B (logger=wandb): the report finds a run by that name, or no curve.")
    if config.output is not None:
        report = build_report(verdict, project=config.project, entity="", title=config.title)
        Path(config.output).parent.mkdir(parents=True, exist_ok=True)
        write_record(Path(config.output), as_spec(report))
        say(f"Wrote {config.output}")
    if config.publish:
        say("Published", upload(verdict, project=config.project, entity=config.entity, title=config.title))


if __name__ == "__main__":
    main()
