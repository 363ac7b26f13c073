"""Model cards: the README.md of an exported model says what it was made of, how, at what cost, and how to load it.

The front matter is the hub's: https://huggingface.co/docs/hub/model-cards.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from grow.common.markdown import Markdown, markdown_code, markdown_table, markdown_text
from grow.common.provenance import read_lineage
from grow.common.records import read_json
from grow.common.redact import redacted

CARD_FILE = "README.md"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
_LOAD = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("DIRECTORY_OR_HUB_ID")
tokenizer = AutoTokenizer.from_pretrained("DIRECTORY_OR_HUB_ID")
```"""


def write_card(
    directory: Path,
    title: str,
    *,
    growth_record: Path | None = None,
    data: str | None = None,
    scores: Mapping[str, float] | None = None,
) -> None:
    """Write README.md into a model's directory, which has its config.json and lineage.json already.

    Args:
        directory: Directory of the model.
        title: Name of the model.
        growth_record: File growth.json of the growth that it came from; one that is missing is left out.
        data: What it was trained on.
        scores: Final value of each metric.
    """
    lineage, growth = read_lineage(directory), _content(growth_record)
    facts = {"architecture": str(_content(directory / "config.json").get("model_type"))}
    base = None
    if growth:
        base = str(growth["source"]["source"])
        kept = "function kept" if growth["preserves"] else "function changed"
        difference = f"logits differ by at most {growth['max_abs_logit_diff']:.2e} of {growth['max_abs_logit']:.3g}"
        reference = growth["growth"]["reference"]
        facts |= {"grown from": base, "by": f"{growth['growth']['name']}{f' ({reference})' if reference else ''}"}
        facts |= {"proof": f"{kept}, {difference} on {growth['tokens']:,} tokens"}
    if lineage is not None:
        facts |= {} if growth or not lineage.converted else {"imported from": lineage.source}
        facts |= {"converted": lineage.converted} if lineage.converted else {}
        facts |= {"tokens": _spent(lineage.tokens, ",d"), "FLOPs": _spent(lineage.flops, ".3e")}
        facts |= {"license of the source": lineage.license} if lineage.license else {}
    facts |= {"data": data} if data else {}
    matter = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"license": lineage.license} if lineage is not None and lineage.license else {}),
        **({"base_model": base} if base and _HUB_ID.fullmatch(base) and not Path(base).exists() else {}),
        "tags": ["grow"],
    }
    table = markdown_table(["", ""], [[name, _shown(name, str(redacted(text)))] for name, text in facts.items()])
    parts = [f"---\n{yaml.safe_dump(matter, sort_keys=False)}---\n", f"# {markdown_text(title)}\n", f"{table}\n"]
    if scores:
        parts.append("## Scores\n\n" + markdown_table(["metric", "value"], _rows(scores)) + "\n")
    parts.append(f"## Load it\n\n{_LOAD}\n")
    (directory / CARD_FILE).write_text("\n".join(parts))


def license_of(directory: Path) -> str | None:
    """Return the license that the README.md of a model's directory names in its front matter; None without one."""
    path = directory / CARD_FILE
    found = _FRONT_MATTER.match(path.read_text(errors="replace")) if path.is_file() else None
    try:
        matter = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return None
    named = matter.get("license") if isinstance(matter, dict) else None
    return named if isinstance(named, str) else None


def _content(path: Path | None) -> dict[str, Any]:
    content = read_json(path) if path is not None and path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _spent(cost: int | float | None, form: str) -> str:
    return "not recorded" if cost is None else format(int(cost) if form == ",d" else cost, form)


def _shown(name: str, text: str) -> str:
    return markdown_code(text) if name in ("grown from", "imported from", "data") else text


def _rows(scores: Mapping[str, float]) -> list[list[str]]:
    return [[Markdown(markdown_code(name)), f"{value:.4f}"] for name, value in scores.items()]
