"""Finished runs in; a W&B report of their speed-up out: tables, and live curves over tokens, FLOPs and seconds.

python scripts/wandb_report.py runs='[DIR,DIR]' baseline=DIR continued=DIR output=FILE     the report as JSON, offline
python scripts/wandb_report.py ... publish=true entity=TEAM                                upload it
"""

from pathlib import Path
from typing import Any

from grow.cli.command import entry_point
from grow.cli.config import WandbReportConfig
from grow.common.errors import ConfigError
from grow.common.provenance import write_json


@entry_point("wandb_report", WandbReportConfig)
def main(config: WandbReportConfig) -> None:
    """Judge runs as scripts/report.py does, and say it in W&B."""
    from grow.report.verdict import judge  # imported here: help and mistakes answer before matplotlib is there
    from grow.report.wandb_report import as_spec, build_report, not_logged

    verdict = judge(
        config.runs, baseline=config.baseline, continued=config.continued, amortised_over=config.amortised_over
    )
    for name in not_logged(verdict):
        print(f"Note: {name} was not logged to W&B (logger=wandb): the report finds a run by that name, or no curve.")
    if config.output is not None:
        path = Path(config.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, as_spec(build_report(verdict, project=config.project, entity="", title=config.title)))
        print(f"Wrote {path}")
    if config.publish:
        print(f"Published {_publish(config, build_report, verdict)}")


def _publish(config: WandbReportConfig, build_report: Any, verdict: Any) -> str:
    """Upload the report and return its address.

    Raises:
        ConfigError: W&B refuses, or cannot be reached.
    """
    import wandb

    try:
        if not wandb.login(prompt=False):
            raise ValueError("no API key was found")
        entity = config.entity or wandb.Api().default_entity
        return build_report(verdict, project=config.project, entity=entity, title=config.title).save().url
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise ConfigError(
            f"publish=true: the report was not uploaded ({' '.join(str(error).split())}). Run `wandb login`, check "
            f"entity={config.entity} and project={config.project}, or write it with output=FILE only."
        ) from None


if __name__ == "__main__":
    main()
