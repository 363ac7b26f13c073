"""A verdict as a W&B report: the tables, and live curves of the W&B runs in its arms.

It is built with W&B's own package wandb-workspaces. Without an entity, it is built without a network.
"""

import json
from dataclasses import dataclass
from typing import Any

from grow.common import metric_names as names
from grow.common.errors import ConfigError
from grow.common.extras import require
from grow.common.printed import printable
from grow.common.provenance import WANDB_FILE
from grow.common.records import read_record
from grow.report import wording
from grow.report.arms import Arm
from grow.report.publish import as_markdown
from grow.report.speedup_figure import loss_range, styled
from grow.report.verdict import Verdict

_PANELS = [  # metric, x-axis, its title
    (names.VAL_LOSS, names.TRAIN_TOKENS, "tokens"),
    (names.VAL_LOSS, "flops", "FLOPs"),
    (names.VAL_LOSS, "seconds", "seconds of training"),
    (names.TRAIN_LOSS, names.TRAIN_TOKENS, "tokens"),
    (names.TOKENS_PER_SEC, names.TRAIN_TOKENS, "tokens"),
    (names.GRAD_NORM, names.TRAIN_TOKENS, "tokens"),
]
_WIDTH, _HEIGHT = 12, 8  # size of a panel; a W&B page is 24 wide


def build_report(verdict: Verdict, *, project: str, entity: str, title: str) -> Any:
    """Build the report, without saving it.

    Args:
        verdict: Verdict to show.
        project: W&B project of the runs and of the report.
        entity: User or team, or "" for none. With an entity, saving the report asks W&B's server for the project.
        title: Title of the page.

    Raises:
        ConfigError: the package wandb-workspaces is not installed.
    """
    wr = _reports()
    runsets = [_runset(wr, arm, colour, project, entity) for arm, colour, _ in styled(verdict)]
    return wr.Report(
        project=project,
        entity=entity,
        title=title,
        description=wording.target_sentence(verdict),
        width="fluid",
        blocks=[
            wr.MarkdownBlock(as_markdown(verdict)),
            wr.H2("Curves"),
            wr.PanelGrid(runsets=runsets, panels=_panels(wr, verdict)),
        ],
    )


def upload(verdict: Verdict, *, project: str, entity: str | None, title: str) -> str:
    """Upload the report and return its address. This is the one function here that uses a network.

    Args:
        verdict: What the report shows.
        project: W&B project of the runs and the report.
        entity: User or team; None is the account's default.
        title: Title of the page.

    Raises:
        ConfigError: W&B refuses, or cannot be reached.
    """
    import wandb

    try:
        if not wandb.login(prompt=False):
            raise ValueError("no API key was found")
        owner: Any = entity or wandb.Api().default_entity
        return build_report(verdict, project=project, entity=owner, title=title).save().url
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise ConfigError(
            f"publish=true: the report was not uploaded ({' '.join(str(error).split())}). Run `wandb login`, check "
            f"entity={entity} and project={project}, or write it with output=FILE only."
        ) from None


def as_spec(report: Any) -> dict[str, Any]:
    """Return a report in the form in which it is sent to W&B's server, as plain data."""
    model = report._to_model()
    return {
        "displayName": model.display_name,
        "description": model.description,
        "projectName": model.project.name,
        "entityName": model.project.entity_name,
        "type": "runs",
        "spec": json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True)),
    }


def not_logged(verdict: Verdict) -> list[str]:
    """Return the names of runs that were not logged to W&B; their curves will be missing from the report."""
    return [run.name for arm, _, _ in styled(verdict) for run in arm.runs if not (run.directory / WANDB_FILE).exists()]


def _panels(wr: Any, verdict: Verdict) -> list[Any]:
    panels = []
    shown = [panel for panel in _PANELS if verdict.time_left_out is None or panel[1] != "seconds"]
    for index, (metric, axis, title) in enumerate(shown):
        row, column = divmod(index, 2)
        panels.append(
            wr.LinePlot(
                title=f"{metric} against {title}",
                x=axis,
                y=[metric],
                title_x=title,
                range_y=loss_range(verdict) if metric == names.VAL_LOSS else (None, None),
                layout=wr.Layout(x=column * _WIDTH, y=row * _HEIGHT, w=_WIDTH, h=_HEIGHT),
            )
        )
    return panels


def _runset(wr: Any, arm: Arm, colour: str, project: str, entity: str) -> Any:
    """Return the run set of one arm; several seeds are shown as one line, their mean, with the spread around it."""
    from wandb_workspaces import expr

    ids = {run.name: _wandb_id(run.directory) for run in arm.runs}
    known = [run_id for run_id in ids.values() if run_id is not None]
    complete = len(known) == len(arm.runs)
    return wr.Runset(
        project=project,
        entity=entity,
        name=printable(arm.label),
        filters=[expr.Metric("ID").isin(known) if complete else expr.Metric("Name").isin(list(ids))],
        groupby=["group"] if len(arm.runs) > 1 else [],
        run_settings={run_id: wr.RunSettings(color=colour) for run_id in known},
    )


@dataclass(kw_only=True, slots=True)
class _Sent:
    """What the report takes from wandb.json."""

    id: str


def _wandb_id(directory: Any) -> str | None:
    path = directory / WANDB_FILE
    return read_record(path, _Sent).id if path.exists() else None


def _reports() -> Any:
    require("wandb_workspaces", "a W&B report (scripts/report.py makes the same tables and curves without it)")
    import wandb_workspaces.reports.v2 as reports

    return reports
