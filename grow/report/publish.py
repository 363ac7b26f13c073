"""The files of a verdict: speedup.json, speedup.md, speedup.png and one self-contained report.html."""

import base64
import json
import math
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment
from rich.table import Table

from grow.common.errors import ConfigError
from grow.common.markdown import markdown_table, markdown_text
from grow.common.metric_names import TOKENS_TO_TARGET
from grow.common.printed import printable
from grow.common.provenance import write_record
from grow.report import wording
from grow.report.arms import Arm
from grow.report.measured import read_measured
from grow.report.measured_figures import draw_measured
from grow.report.speedup_figure import draw
from grow.report.verdict import Advantage, ArmVerdict, MeasuredSpeedup, Verdict


def publish(verdict: Verdict, output: Path) -> list[Path]:
    """Write the four files into a directory, which is made if needed.

    Returns:
        Paths of the files, in the order of this module's first line.

    Raises:
        ConfigError: the directory cannot be made or written to.
    """
    paths = [output / name for name in ("speedup.json", "speedup.md", "speedup.png", "report.html")]
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_record(paths[0], as_json(verdict))
        paths[1].write_text(as_markdown(verdict))
        draw(verdict, paths[2])
        paths[3].write_text(as_html(verdict, paths[2].read_bytes()))
    except OSError as error:
        raise ConfigError(f"output={output}: expected a directory to write to, found {error.strerror}.") from None
    return paths


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Return the content of speedup.json; null is a number that is unknown or does not exist, as `outcome` says.

    Where `time_left_out` says why times are not compared, `speedup` has no key `seconds`.
    """
    return {
        "amortised_over": verdict.amortised_over,
        "time_left_out": verdict.time_left_out,
        "baseline": _arm_json(verdict.baseline),
        "continued": _arm_json(verdict.continued),
        "arms": [_judged_json(judged) for judged in verdict.arms],
    }


def _arm_json(arm: Arm | None) -> dict[str, Any] | None:
    if arm is None:
        return None
    return {
        "label": arm.label,
        "final_loss": arm.curve.final_loss,
        "final_loss_of_average": arm.curve.final_averaged,
        "seeds": [run.seed for run in arm.runs],
        "runs": [run.name for run in arm.runs],
    }


def _judged_json(judged: ArmVerdict) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for (axis, accounting), measured in (judged.speedups or {}).items():
        found.setdefault(axis, {})[accounting] = _measured_json(measured)
    return {
        **(_arm_json(judged.arm) or {}),
        TOKENS_TO_TARGET: found["tokens"]["F"]["cost_run"] if found else None,
        "speedup": found or None,
        "against_continued": judged.advantages and [_advantage_json(found) for found in judged.advantages],
        "notes": judged.notes,
    }


def _measured_json(measured: MeasuredSpeedup) -> dict[str, Any]:
    return {**asdict(measured.speedup), "interval": _ends(measured.interval)}


def _advantage_json(advantage: Advantage) -> dict[str, Any]:
    verdict = wording.advantage_sentence(advantage)
    return {**asdict(advantage), "interval": _ends(advantage.interval), "verdict": verdict}


def _ends(interval: tuple[float, float] | None) -> list[float | str] | None:
    return interval and ["at no cost" if math.isinf(end) else end for end in interval]


def as_markdown(verdict: Verdict) -> str:
    """Return speedup.md: both tables, each under a sentence on its baseline, and the notes."""
    parts = ["# Speed-up", wording.target_sentence(verdict), markdown_table(*wording.speedup_table(verdict))]
    parts += [wording.continued_sentence(verdict), markdown_table(*wording.continued_table(verdict))]
    notes = [(judged.arm.label, note) for judged in verdict.arms for note in judged.notes]
    listed = [f"- {markdown_text(label)}: {markdown_text(note)}" for label, note in notes]
    return "\n\n".join([*parts, "\n".join(listed)]).rstrip() + "\n"


def as_tables(verdict: Verdict) -> list[Table]:
    """Return both tables for a terminal."""
    tables = []
    for title, (header, rows) in (
        (wording.target_sentence(verdict), wording.speedup_table(verdict)),
        (wording.continued_sentence(verdict), wording.continued_table(verdict)),
    ):
        table = Table(*header, title=title, title_justify="left", show_lines=False)
        for row in rows:
            table.add_row(*row, end_section=row is rows[-1])
        tables.append(table)
    return tables


def as_html(verdict: Verdict, figure_png: bytes) -> str:
    """Return report.html: one page without links to other files, in which all text from runs is escaped.

    Args:
        verdict: Verdict to show.
        figure_png: Content of speedup.png.
    """
    template = resources.files("grow.report").joinpath("report.html.j2").read_text()
    environment = Environment(
        autoescape=True, finalize=_shown, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    arms = [arm for arm in (verdict.baseline, verdict.continued) if arm] + [judged.arm for judged in verdict.arms]
    measured = [read_measured(f"{arm.label}, {run.name}", run.directory) for arm in arms for run in arm.runs]
    return environment.from_string(template).render(
        verdict=verdict,
        wording=wording,
        figure=base64.b64encode(figure_png).decode(),
        measured=measured,
        pictures=[(picture, base64.b64encode(picture.png).decode()) for picture in draw_measured(measured)],
        arms=arms,
        pretty=lambda value: json.dumps(value, indent=1),
    )


def _shown(value: Any) -> Any:
    """Spell out control characters in a text; jinja calls this for every value of the page, and then escapes it."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
